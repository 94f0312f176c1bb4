/* The page in front of the guest's vDSO: read-only for guests, written by the sentry. C, because the vDSO is C. */
#ifndef SENTRY_LOADER_VDSO_PARAMS_H_
#define SENTRY_LOADER_VDSO_PARAMS_H_

#include <stdint.h>

struct vdso_params {
  /* Functions of the host's vDSO, at their addresses in every stub; 0 if the host has none. */
  uint64_t host_clock_gettime;
  uint64_t host_clock_getres;
  uint64_t host_gettimeofday;
  uint64_t host_time;
  uint64_t host_getcpu;
  /* Guest CLOCK_MONOTONIC and CLOCK_BOOTTIME minus the host's, in nanoseconds: 0 until a restore. */
  int64_t monotonic_offset;
  int64_t boottime_offset;
};

#endif
