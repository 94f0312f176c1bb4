// Which call comes next, with which arguments. No allocation, no state outside of the object but the memory that all threads of a process share.
#pragma once

#include <stdint.h>

namespace hostile {

// Of all processes; in shared memory.
struct Shared {
  uint64_t calls;
  int processes;
};

struct Call {
  long number;
  uint64_t args[6];
};

// Once in each program: memory that arguments point to, and descriptors of every kind there is.
void MakeObjects(uint64_t seed);

class Arguments {
 public:
  // Of `seed`. Most programs make a few of the calls far more often than the others: which, is up to `program`, for all of its threads.
  Arguments(uint64_t seed, uint64_t program);
  Call Next();
  // After a call: memory that came from it is used later.
  void Learn(const Call& call, long result);
  // In a child: not the parent's calls once more.
  void Reseed();

 private:
  uint64_t Random();
  uint64_t Below(uint64_t n) { return Random() % n; }
  bool OneIn(uint64_t n) { return Below(n) == 0; }
  uint64_t Value(char kind);
  uint64_t Pointer();
  uint64_t Path();
  uint64_t Size();
  uint64_t Flags();
  uint64_t Area();
  // Eight bytes of what might be a structure.
  uint64_t Slot();

  static constexpr int kFavourites = 10;

  uint64_t state_;
  bool has_favourites_;
  uint16_t favourites_[kFavourites];  // in kCalls
};

}  // namespace hostile
