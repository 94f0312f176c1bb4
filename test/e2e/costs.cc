// costs WHAT COUNT: does one thing COUNT times, says so, and stays. What that costs the sandbox is then read from its counters.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

char* own_path;

void Await(pid_t child) {
  if (child < 0 || waitpid(child, nullptr, 0) != child) _exit(1);
}

void Fork() {
  pid_t child = fork();
  if (child == 0) _exit(0);
  Await(child);
}

void VforkExec() {
  char* const arguments[] = {own_path, nullptr};
  char* const environment[] = {nullptr};
  pid_t child = vfork();
  if (child == 0) {
    execve(own_path, arguments, environment);
    _exit(1);
  }
  Await(child);
}

void* Nothing(void*) { return nullptr; }

void Thread() {
  pthread_t thread;
  if (pthread_create(&thread, nullptr, Nothing, nullptr) != 0) _exit(1);
  pthread_join(thread, nullptr);
}

void Map() {
  void* memory = mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || munmap(memory, 65536) != 0) _exit(1);
}

void Brk() {
  void* const failed = reinterpret_cast<void*>(-1);
  if (sbrk(65536) == failed || sbrk(-65536) == failed) _exit(1);
}

constexpr struct {
  const char* name;
  void (*run)();
} kThings[] = {{"fork", Fork}, {"exec", VforkExec}, {"thread", Thread}, {"mmap", Map}, {"brk", Brk}};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 0;
  own_path = argv[0];
  for (const auto& thing : kThings) {
    if (strcmp(argv[1], thing.name) != 0) continue;
    for (int i = atoi(argv[2]); i > 0; --i) thing.run();
  }
  puts("done");
  fflush(stdout);
  for (;;) pause();
}
