// ticker MIB: touches that much memory, then prints a counter every millisecond. What the
// checkpoint rows freeze; after a restore, a sum over all pages is checked now and then.
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <vector>

int main(int argc, char** argv) {
  size_t words = (argc > 1 ? strtoull(argv[1], nullptr, 10) : 1) << 17;
  std::vector<uint64_t> memory(words);
  // Not compressible and not equal, as real data is not.
  uint64_t state = 88172645463325252ULL;
  for (uint64_t& word : memory) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    word = state;
  }
  printf("ready\n");
  fflush(stdout);
  for (uint64_t tick = 0;; ++tick) {
    memory[(tick * 4099) % words] += 1;
    printf("%llu\n", static_cast<unsigned long long>(tick));
    fflush(stdout);
    timespec pause = {0, 1'000'000};
    nanosleep(&pause, nullptr);
  }
}
