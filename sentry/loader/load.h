// The loader without the kernel: what LoadProgram() does, with its surroundings passed in, so that tests and the fuzz target run it
// on files of the host.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "sentry/loader/elf.h"
#include "sentry/loader/loader.h"

namespace amber::loader {

class Vdso;

struct LoadEnvironment {
  std::unique_ptr<ExecFile> file;
  std::function<ErrnoOr<std::unique_ptr<ExecFile>>(const std::string& path)> open;
  std::function<ErrnoOr<ExecIdentity>(ExecFile& exe)> identity;
  std::function<void(void* out, size_t size)> random;
  Vdso* vdso = nullptr;     // null: the program gets none
  int vdso_params_fd = -1;  // what it reads: Vdso::params_fd() or another's; -1: an empty page
  uint64_t host_vdso_base = 0, host_vdso_size = 0;
};

// Uses `request` for the arguments and limits only; its file and functions are those of `environment`.
ErrnoOr<LoadResult> Load(LoadEnvironment environment, const ExecRequest& request);

}  // namespace amber::loader
