#include "sentry/loader/loader.h"

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/time_namespace.h"
#include "sentry/loader/load.h"
#include "sentry/loader/vdso/vdso.h"
#include "sentry/vfs/io.h"

namespace amber::loader {

namespace {

class TaskExecFile final : public ExecFile {
 public:
  TaskExecFile(Task& task, RefPtr<File> file) : task_(task), file_(std::move(file)) {}
  ErrnoOr<size_t> ReadAt(void* data, size_t size, uint64_t offset) override {
    BufferSink sink(data, size);
    return file_->PRead(task_, sink, offset);
  }
  ErrnoOr<MapSource> Map(uint64_t offset, uint64_t size, int prot) override { return file_->Map(task_, offset, size, prot, /*shared=*/false); }
  RefPtr<File> file() override { return file_; }

 private:
  Task& task_;
  RefPtr<File> file_;
};

ExecIdentity IdentityOf(const Task& task) {
  const Credentials& c = task.creds();
  return {c.uid, c.euid, c.gid, c.egid, c.uid != c.euid || c.gid != c.egid};
}

}  // namespace

Vdso* SharedVdso(uint64_t host_base) {
  static Vdso* const vdso = [&]() -> Vdso* {
    auto made = Vdso::Create(host_base);
    return made.ok() ? std::move(made).value().release() : nullptr;
  }();
  return vdso;
}

ErrnoOr<LoadResult> LoadProgram(Task& task, const ExecRequest& request) {
  Kernel& kernel = task.kernel();
  LoadEnvironment env;
  env.file = std::make_unique<TaskExecFile>(task, request.file);
  env.open = [&](const std::string& path) -> ErrnoOr<std::unique_ptr<ExecFile>> {
    return std::unique_ptr<ExecFile>(new TaskExecFile(task, TRY(request.open(path))));
  };
  env.identity = [&](ExecFile& exe) -> ErrnoOr<ExecIdentity> {
    if (request.identity) return request.identity(*exe.file());
    return IdentityOf(task);
  };
  env.random = [&](void* out, size_t size) { kernel.Random(out, size); };
  env.host_vdso_base = kernel.platform().host_vdso_base();
  env.host_vdso_size = kernel.platform().host_vdso_size();
  env.vdso = SharedVdso(env.host_vdso_base);
  if (env.vdso != nullptr) env.vdso->SetOffsets(kernel.clocks().monotonic_offset(), kernel.clocks().boottime_offset());
  env.vdso_params_fd = VdsoParamsFd(task.extras().time_for_children.get(), kernel.clocks());
  return Load(std::move(env), request);
}

}  // namespace amber::loader
