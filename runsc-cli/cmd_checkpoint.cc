// checkpoint, restore.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runsc-cli/command.h"
#include "runsc-cli/console.h"
#include "runsc-cli/files.h"

namespace amber::cli {
namespace {

constexpr char kImageName[] = "sandbox.img";

absl::Status Failed(std::string_view what, const std::string& path) {
  return absl::InternalError(absl::StrCat(what, " ", path, ": ", strerrordesc_np(errno)));
}

// An image that is being written: beside its target, and gone unless Publish() came.
class ImageWriter {
 public:
  ~ImageWriter() {
    if (!temporary_.empty()) unlink(temporary_.c_str());
  }
  absl::Status Open(const std::string& directory) {
    directory_ = directory;
    if (absl::Status status = MakeDirectories(directory, 0700); !status.ok()) return status;
    std::string path = absl::StrCat(directory, "/.", kImageName, ".", getpid());
    file_.reset(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file_.valid()) return Failed("cannot make the image", path);
    temporary_ = path;
    return absl::OkStatus();
  }
  int fd() const { return file_.get(); }
  // After this the image is on the disk, whole, under its name, or the old one still is.
  absl::Status Publish() {
    if (fsync(file_.get()) != 0) return Failed("cannot write the image to disk", temporary_);
    std::string target = absl::StrCat(directory_, "/", kImageName);
    if (rename(temporary_.c_str(), target.c_str()) != 0) return Failed("cannot rename the image to", target);
    temporary_.clear();
    UniqueFd directory(open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (directory.valid()) fsync(directory.get());
    for (const char* name : kMarks) {
      std::string mark = absl::StrCat(directory_, "/", name);
      UniqueFd file(open(mark.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
      if (!file.valid()) return Failed("cannot make", mark);
    }
    return absl::OkStatus();
  }

 private:
  // Empty files beside the image. Podman looks for the first before it restores. The second is for Docker, which puts the
  // directory as an archive into containerd's content store when it saves and again when it starts from it, and refuses if the store
  // still has the same bytes (moby issue 42900): unpacking takes this name for a whiteout, so the second archive lacks it.
  static constexpr const char* kMarks[] = {"inventory.img", ".wh.saved"};

  std::string directory_;
  std::string temporary_;
  UniqueFd file_;
};

std::string ImageDirectory(const Flags& flags) {
  std::string path = flags.String("image-path");
  return path.empty() ? "checkpoint" : path;
}

// Engines show users this file when a checkpoint or restore fails.
void WriteWorkLog(const Flags& flags, const char* name, std::string_view text) {
  std::string directory = flags.StringOr("work-path", ImageDirectory(flags));
  if (!MakeDirectories(directory, 0700).ok()) return;
  UniqueFd file(open(absl::StrCat(directory, "/", name).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (file.valid()) (void)!write(file.get(), text.data(), text.size());
}

std::string Describe(const control::CheckpointReply& r) {
  std::string out = absl::StrFormat("image %d bytes, memory %d bytes, guest paused %.3f ms, total %.3f ms\n", r.image_bytes(), r.memory_bytes(),
                                    static_cast<double>(r.pause_ns()) / 1e6, static_cast<double>(r.total_ns()) / 1e6);
  for (const control::Phase& phase : r.phases()) {
    absl::StrAppend(&out, phase.name(), absl::StrFormat(" %.3f ms\n", static_cast<double>(phase.ns()) / 1e6));
  }
  for (const std::string& obstacle : r.obstacles()) absl::StrAppend(&out, "cannot be saved: ", obstacle, "\n");
  return out;
}

absl::StatusOr<control::Reply> CallCheckpoint(Context& context, const State& state, int image, int parent) {
  const Flags& flags = context.flags;
  absl::StatusOr<control::Client> client = ConnectTo(context.options, state);
  if (!client.ok()) return client.status();
  control::Request request = MakeRequest(state.id);
  control::CheckpointRequest* wanted = request.mutable_checkpoint();
  wanted->set_leave_running(flags.Bool("leave-running"));
  wanted->set_check_only(flags.Bool("check"));
  wanted->set_tcp_established(flags.Bool("tcp-established"));
  wanted->set_compress(flags.Bool("compress"));
  std::vector<int> fds;
  if (image >= 0) fds.push_back(image);
  if (parent >= 0) fds.push_back(parent);
  request.mutable_descriptors()->set_image(image >= 0);
  request.mutable_descriptors()->set_parent(parent >= 0);
  return client->Call(request, fds, [&context](const control::ProgressReply& p) {
    if (isatty(2) == 0 || context.options.report->fd() >= 0) return;
    fprintf(stderr, "\r%-20s %5.1f %%", std::string(p.stage()).c_str(),
            p.total() == 0 ? 0.0 : 100.0 * static_cast<double>(p.done()) / static_cast<double>(p.total()));
    if (p.done() == p.total()) fputs("\r\033[K", stderr);
  });
}

absl::StatusOr<int> Checkpoint(Context& context) {
  const Flags& flags = context.flags;
  absl::StatusOr<std::string> id = context.ContainerId();
  if (!id.ok()) return id.status();
  if (flags.Bool("pre-dump")) {
    return absl::UnimplementedError("--pre-dump is not supported yet; a plain checkpoint needs no round before it");
  }
  if (flags.Has("page-server") || flags.Bool("lazy-pages")) {
    return absl::UnimplementedError("--page-server and --lazy-pages are not supported: restore maps pages from the image as they are needed");
  }
  absl::StatusOr<StateDir> dir = StateDir::OpenLocked(context.options.root, *id);
  if (!dir.ok()) return dir.status();
  absl::StatusOr<State> state = dir->Load();
  if (!state.ok()) return state.status();
  if (std::string status = state->Status(); status != "running" && status != "paused") {
    return absl::FailedPreconditionError(absl::StrCat("cannot checkpoint container \"", *id, "\": it is ", status));
  }
  bool check = flags.Bool("check");
  ImageWriter image;
  if (!check) {
    if (absl::Status status = image.Open(ImageDirectory(flags)); !status.ok()) return status;
  }
  UniqueFd parent;
  if (flags.Has("parent-path")) {
    std::string path = absl::StrCat(ImageDirectory(flags), "/", flags.String("parent-path"), "/", kImageName);
    parent.reset(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!parent.valid()) return Failed("cannot open the parent image", path);
  }
  absl::StatusOr<control::Reply> reply = CallCheckpoint(context, *state, image.fd(), parent.get());
  if (!reply.ok()) {
    WriteWorkLog(flags, "dump.log", absl::StrCat("Error: ", reply.status().message(), "\n"));
    return absl::Status(reply.status().code(), absl::StrCat("checkpoint failed, the container runs on: ", reply.status().message()));
  }
  std::string summary = Describe(reply->checkpoint());
  if (check) {
    fputs(summary.c_str(), stdout);
    return reply->checkpoint().obstacles().empty() ? 0 : 1;
  }
  if (absl::Status status = image.Publish(); !status.ok()) return status;
  WriteWorkLog(flags, "dump.log", summary);
  if (context.options.timings) fputs(summary.c_str(), stderr);
  if (flags.Bool("leave-running")) return 0;
  // As runc does: what is in the image is no longer here. In the foreground its command line removes it.
  if (state->owner.pid != 0) return 0;
  if (absl::Status status = Destroy(context.options, *dir, *state); !status.ok()) {
    context.options.report->Warning(std::string(status.message()));
  }
  return 0;
}

absl::StatusOr<UniqueFd> OpenImage(const Flags& flags) {
  std::string path = ImageDirectory(flags);
  struct stat st;
  if (stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) path = absl::StrCat(path, "/", kImageName);
  UniqueFd image(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!image.valid()) {
    if (errno == ENOENT)
      return absl::NotFoundError(absl::StrCat("there is no image ", path, ": --image-path names the directory that checkpoint wrote to"));
    return Failed("cannot open the image", path);
  }
  if (fstat(image.get(), &st) != 0 || !S_ISREG(st.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, " is not a file"));
  return image;
}

absl::StatusOr<int> Restore(Context& context) {
  const Flags& flags = context.flags;
  if (absl::Status status = context.ContainerId().status(); !status.ok()) return status;
  absl::StatusOr<UniqueFd> image = OpenImage(flags);
  if (!image.ok()) return image.status();
  absl::StatusOr<LaunchRequest> made = context.BundleRequest();
  if (!made.ok()) return made.status();
  LaunchRequest request = *std::move(made);
  request.image = *std::move(image);
  bool detach = flags.Bool("detach");
  RawMode raw;
  bool terminal = request.bundle.container.process.terminal && !flags.Has("console-socket") && !detach;
  if (terminal) {
    absl::StatusOr<UniqueFd> own = ReopenTerminal(STDIN_FILENO);
    if (!own.ok()) return own.status();
    request.terminal = *std::move(own);
    if (absl::Status status = raw.Enter(STDIN_FILENO); !status.ok()) return status;
  }
  request.foreground = !detach;
  absl::StatusOr<Launched> launched = Launch(context.options, std::move(request));
  if (!launched.ok()) {
    WriteWorkLog(flags, "restore.log", absl::StrCat("Error: ", launched.status().message(), "\n"));
    return launched.status();
  }
  if (detach) return 0;
  int status = AwaitInForeground(launched->state.waiter.pid);
  raw.Restore();
  DestroyAfterForeground(context.options, launched->state);
  return status;
}

// Flags of runc's checkpoint and restore that engines pass and that mean nothing, or nothing yet, here.
std::vector<FlagSpec> SharedFlags() {
  return {{"image-path", 0, FlagKind::kString, "DIR", "directory of the image (default: checkpoint)"},
          {"work-path", 0, FlagKind::kString, "DIR", "where logs go (default: beside the image)"},
          {"tcp-established", 0, FlagKind::kBool, nullptr, "saves open TCP connections"},
          {"ext-unix-sk", 0, FlagKind::kBool, nullptr, nullptr},
          {"shell-job", 0, FlagKind::kBool, nullptr, nullptr},
          {"file-locks", 0, FlagKind::kBool, nullptr, nullptr},
          {"lazy-pages", 0, FlagKind::kBool, nullptr, nullptr},
          {"manage-cgroups-mode", 0, FlagKind::kString, nullptr, nullptr},
          {"empty-ns", 0, FlagKind::kList, nullptr, nullptr},
          {"auto-dedup", 0, FlagKind::kBool, nullptr, nullptr},
          {"status-fd", 0, FlagKind::kNumber, nullptr, nullptr}};
}

}  // namespace

std::vector<Command> CheckpointCommands() {
  return {
      {"checkpoint", "[FLAGS] ID", "saves a running container into one image, which ends it",
       "The image is written beside its target, flushed and renamed: a crash leaves the old one or the new\n"
       "one. If anything cannot be saved the container runs on, and the error says what.",
       Join(SharedFlags(), {{"leave-running", 0, FlagKind::kBool, nullptr, "lets the container run on"},
                            {"check", 0, FlagKind::kBool, nullptr, "only lists what could not be saved"},
                            {"compress", 0, FlagKind::kBool, nullptr, "a smaller image, slower to restore"},
                            {"parent-path", 0, FlagKind::kString, "DIR", "an earlier image, relative to this one, to build upon"},
                            {"pre-dump", 0, FlagKind::kBool, nullptr, nullptr},
                            {"page-server", 0, FlagKind::kString, nullptr, nullptr},
                            {"timings", 0, FlagKind::kBool, nullptr, "prints sizes and times"}}),
       Checkpoint},
      {"restore", "[FLAGS] ID", "brings a container back from an image",
       "The bundle says where its files are now; programs, memory and open files come from the image.",
       Join(Join(SharedFlags(), {{"bundle", 'b', FlagKind::kString, "DIR", "the bundle (default: the current directory)"},
                                 {"detach", 'd', FlagKind::kBool, nullptr, "does not wait"},
                                 {"pid-file", 0, FlagKind::kString, "FILE", "writes the pid that stands for the container"},
                                 {"console-socket", 0, FlagKind::kString, "SOCKET", "sends the terminal's master there"},
                                 {"preserve-fds", 0, FlagKind::kNumber, "N", "passes descriptors 3 to N+2 on"},
                                 {"pidfd-socket", 0, FlagKind::kString, nullptr, nullptr},
                                 {"no-pivot", 0, FlagKind::kBool, nullptr, nullptr},
                                 {"no-subreaper", 0, FlagKind::kBool, nullptr, nullptr},
                                 {"no-new-keyring", 0, FlagKind::kBool, nullptr, nullptr},
                                 {"lsm-profile", 0, FlagKind::kString, nullptr, nullptr},
                                 {"lsm-mount-context", 0, FlagKind::kString, nullptr, nullptr}}),
            SandboxFlags()),
       Restore},
  };
}

}  // namespace amber::cli
