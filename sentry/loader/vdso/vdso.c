/* The guest's vDSO: clocks and the CPU number without leaving the stub.
 *
 * It lets the host's own vDSO, which every stub has, read the clock and adds the offsets of the parameter page, which
 * are what a restored sandbox's clocks run behind or ahead. What the host's vDSO does not answer becomes a system
 * call. Compiled without libc; one read-only segment, no relocations (see vdso.lds).
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "sentry/loader/vdso/params.h"

/* One page below the image: vdso.lds. */
extern const volatile struct vdso_params vdso_params_page __attribute__((visibility("hidden")));

typedef int (*clock_fn)(clockid_t, struct timespec*);
typedef int (*timeofday_fn)(struct timeval*, void*);
typedef time_t (*time_fn)(time_t*);
typedef int (*getcpu_fn)(unsigned*, unsigned*, void*);

#define EXPORT __attribute__((visibility("default")))

static long call3(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
  return result;
}

/* `offset` may be negative; the sum of a clock and its offset is not. */
static void add(struct timespec* ts, int64_t offset) {
  int64_t seconds = offset / 1000000000, ns = ts->tv_nsec + offset % 1000000000;
  if (ns >= 1000000000) {
    ns -= 1000000000;
    seconds++;
  } else if (ns < 0) {
    ns += 1000000000;
    seconds--;
  }
  ts->tv_sec += seconds;
  ts->tv_nsec = ns;
}

EXPORT int __vdso_clock_gettime(clockid_t clock, struct timespec* ts) {
  clock_fn host = (clock_fn)vdso_params_page.host_clock_gettime;
  int64_t offset = 0;
  switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_TAI: break;
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_MONOTONIC_RAW: offset = vdso_params_page.monotonic_offset; break;
    case CLOCK_BOOTTIME: offset = vdso_params_page.boottime_offset; break;
    default: host = NULL;
  }
  if (host == NULL) return (int)call3(SYS_clock_gettime, clock, (long)ts, 0);
  int result = host(clock, ts);
  if (__builtin_expect(offset != 0, 0) && result == 0) add(ts, offset);
  return result;
}

EXPORT int __vdso_clock_getres(clockid_t clock, struct timespec* ts) {
  clock_fn host = (clock_fn)vdso_params_page.host_clock_getres;
  if (host == NULL || clock < 0 || clock > CLOCK_BOOTTIME || clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID) {
    return (int)call3(SYS_clock_getres, clock, (long)ts, 0);
  }
  return host(clock, ts);
}

EXPORT int __vdso_gettimeofday(struct timeval* tv, void* zone) {
  timeofday_fn host = (timeofday_fn)vdso_params_page.host_gettimeofday;
  if (host == NULL) return (int)call3(SYS_gettimeofday, (long)tv, (long)zone, 0);
  return host(tv, zone);
}

EXPORT time_t __vdso_time(time_t* out) {
  time_fn host = (time_fn)vdso_params_page.host_time;
  if (host == NULL) return call3(SYS_time, (long)out, 0, 0);
  return host(out);
}

EXPORT long __vdso_getcpu(unsigned* cpu, unsigned* node, void* unused) {
  getcpu_fn host = (getcpu_fn)vdso_params_page.host_getcpu;
  if (host == NULL) return call3(SYS_getcpu, (long)cpu, (long)node, (long)unused);
  return host(cpu, node, unused);
}
