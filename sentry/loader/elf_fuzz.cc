// Loads programs made of the fuzzer's bytes: `#!` lines, headers, interpreters; no plan may leave the guest's part of memory.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "sentry/base/check.h"
#include "sentry/loader/host_exec_file.h"
#include "sentry/loader/load.h"

namespace amber::loader {
namespace {

void LoadBytes(const std::string& bytes) {
  LoadEnvironment env;
  env.file = std::make_unique<BytesExecFile>(bytes);
  // Scripts and dynamic programs find themselves again as their interpreter.
  env.open = [&](const std::string& path) -> ErrnoOr<std::unique_ptr<ExecFile>> {
    // What is looked up is a C string that a path walk takes.
    AMBER_CHECK(path.find('\0') == std::string::npos && path.size() < 4096);
    if (path.empty()) return Errno(ENOENT);
    return std::unique_ptr<ExecFile>(new BytesExecFile(bytes));
  };
  env.identity = [](ExecFile&) -> ErrnoOr<ExecIdentity> { return ExecIdentity(); };
  env.random = [](void* out, size_t size) { memset(out, 0x5a, size); };
  env.host_vdso_base = 0x7ffff7fc1000;
  env.host_vdso_size = 0x2000;
  ExecRequest request;
  request.path = "/program";
  request.argv = {"program", "argument"};
  request.envp = {"A=B"};
  auto result = Load(std::move(env), request);
  if (!result.ok()) return;
  for (const platform::StubOp& op : result->plan.ops) {
    AMBER_CHECK(op.args[0] >= platform::kMinAddress && op.args[1] > 0 && op.args[0] < platform::kGuestTop &&
                op.args[1] <= platform::kGuestTop - op.args[0]);
    AMBER_CHECK(op.args[0] + op.args[1] <= 0x7ffff7fc1000 || op.args[0] >= 0x7ffff7fc3000);
  }
  for (const auto& w : result->plan.writes) {
    AMBER_CHECK(result->mm->IsMapped(PageDown(w.address), PageUp(w.address + w.data.size())));
  }
}

}  // namespace
}  // namespace amber::loader

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  amber::loader::LoadBytes(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
