// Every kind of object that an image of this version may hold.
#include "checkpoint/state.h"
#include "sentry/fs/cgroup/cgroup_fs.h"
#include "sentry/fs/dev/devices.h"
#include "sentry/fs/devpts/devpts.h"
#include "sentry/fs/devpts/tty.h"
#include "sentry/fs/devpts/tty_file.h"
#include "sentry/fs/epoll/epoll.h"
#include "sentry/fs/eventfd/eventfd.h"
#include "sentry/fs/fanotify/fanotify.h"
#include "sentry/fs/fifo/fifo.h"
#include "sentry/fs/fuse/fuse_file.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/fs/host/host_file.h"
#include "sentry/fs/image/image_fs.h"
#include "sentry/fs/inotify/inotify.h"
#include "sentry/fs/memfd/memfd.h"
#include "sentry/fs/mountfd/mountfd.h"
#include "sentry/fs/mqueue/mqueue.h"
#include "sentry/fs/nsfs/nsfs.h"
#include "sentry/fs/nvidia/moved_memory.h"
#include "sentry/fs/nvidia/nvidia_file.h"
#include "sentry/fs/overlay/overlay.h"
#include "sentry/fs/pidfd/pidfd.h"
#include "sentry/fs/pipe/pipe.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/fs/proc/proc_mem.h"
#include "sentry/fs/signalfd/signalfd.h"
#include "sentry/fs/timerfd/timerfd.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/fs/tun/tun_file.h"
#include "sentry/fs/userfaultfd/userfaultfd.h"
#include "sentry/io_uring/io_uring.h"
#include "sentry/ipc/ipc_namespace.h"
#include "sentry/kernel/other_namespaces.h"
#include "sentry/kernel/seccomp_filter.h"
#include "sentry/kernel/seccomp_listener.h"
#include "sentry/kernel/signal.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/time_namespace.h"
#include "sentry/kernel/uts_namespace.h"
#include "sentry/keys/key.h"
#include "sentry/landlock/landlock.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/net/inet/host_socket.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/inet/raw_socket.h"
#include "sentry/net/inet/tcp_socket.h"
#include "sentry/net/inet/udp_socket.h"
#include "sentry/net/netlink/netlink_socket.h"
#include "sentry/net/packet/packet_socket.h"
#include "sentry/net/tcp/tcp_connection.h"
#include "sentry/net/unix/unix_socket.h"
#include "sentry/runtime/container.h"
#include "sentry/vfs/dentry.h"
#include "sentry/vfs/directory_file.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/regular_file.h"
#include "sentry/vfs/vfs_file.h"

namespace amber::state {
namespace {

// Kinds that are named beside their classes, not in state.h.
constexpr Kind kOthers[] = {kNvidiaFileKind,  kMovedMemoryKind, kUserfaultFdKind, kFuseConnectionKind, kFuseRequestKind,
                            kFuseHandleKind,  kFuseInodeKind,   kFuseFileKind,    kFuseDeviceKind,     kCgroupKind,
                            kCgroupInodeKind, kCgroupFileKind,  kTunFileKind};
constexpr bool AllDiffer() {
  for (const Kind& a : kOthers) {
    for (const Kind& b : kOthers) {
      if (&a != &b && a == b) return false;
    }
    if (static_cast<int>(a) < 180) return false;  // those are state.h's
  }
  return true;
}
static_assert(AllDiffer());
// Where state.h has its file systems, which are let go last.
static_assert(kFuseFileSystemKind > Kind::kNsFileSystem && kFuseFileSystemKind < Kind::kImageFileSystem);

}  // namespace

Loader::Factory FactoryOf(Kind kind) {
  if (kind == kNvidiaFileKind) return &Loader::Make<NvidiaFile>;
  if (kind == kCgroupKind) return &Loader::Make<Cgroup>;
  if (kind == kCgroupInodeKind) return &Loader::Make<CgroupInode>;
  if (kind == kCgroupFileKind) return &Loader::Make<CgroupFile>;
  if (kind == kFuseConnectionKind) return &Loader::Make<FuseConnection>;
  if (kind == kFuseRequestKind) return &Loader::Make<FuseRequest>;
  if (kind == kFuseHandleKind) return &Loader::Make<FuseHandle>;
  if (kind == kFuseFileSystemKind) return &Loader::Make<FuseFileSystem>;
  if (kind == kFuseInodeKind) return &Loader::Make<FuseInode>;
  if (kind == kFuseFileKind) return &Loader::Make<FuseFile>;
  if (kind == kFuseDeviceKind) return &Loader::Make<FuseDevice>;
  if (kind == kTunFileKind) return &Loader::Make<TunFile>;
  if (kind == kMovedMemoryKind) return &Loader::Make<MovedMemory>;
  if (kind == kFanotifyPermissionKind) return &Loader::Make<FanotifyPermission>;
  if (kind == kUserfaultFdKind) return &Loader::Make<UserfaultFd>;
  if (kind == kPacketSocketKind) return &Loader::Make<PacketSocket>;
  switch (kind) {
    case Kind::kTask: return &Loader::Make<Task>;
    case Kind::kThreadGroup: return &Loader::Make<ThreadGroup>;
    case Kind::kProcessGroup: return &Loader::Make<ProcessGroup>;
    case Kind::kSession: return &Loader::Make<Session>;
    case Kind::kPidNamespace: return &Loader::Make<PidNamespace>;
    case Kind::kUserNamespace: return &Loader::Make<UserNamespace>;
    case Kind::kSeccompFilter: return &Loader::Make<SeccompFilter>;
    case Kind::kIoUring: return &Loader::Make<IoUring>;
    case Kind::kKeyring: return &Loader::Make<Key>;
    case Kind::kLandlockRuleset: return &Loader::Make<LandlockRuleset>;
    case Kind::kSeccompListener: return &Loader::Make<SeccompListener>;
    case Kind::kCgroupNamespace: return &Loader::Make<CgroupNamespace>;
    case Kind::kTimeNamespace: return &Loader::Make<TimeNamespace>;
    case Kind::kNamespaceFile: return &Loader::Make<NsFile>;
    case Kind::kNsFileSystem: return &Loader::Make<NsFileSystem>;
    case Kind::kNsInode: return &Loader::Make<NsInode>;
    case Kind::kImageFileSystem: return &Loader::Make<ImageFileSystem>;
    case Kind::kImageInode: return &Loader::Make<ImageInode>;
    case Kind::kUtsNamespace: return &Loader::Make<UtsNamespace>;
    case Kind::kIpcNamespace: return &Loader::Make<IpcNamespace>;
    case Kind::kSignalHandlers: return &Loader::Make<SignalHandlers>;
    case Kind::kContainer: return &Loader::Make<Container>;
    case Kind::kMemoryManager: return &Loader::Make<MemoryManager>;
    case Kind::kFdTable: return &Loader::Make<FdTable>;
    case Kind::kFsContext: return &Loader::Make<FsContext>;
    case Kind::kMountNamespace: return &Loader::Make<MountNamespace>;
    case Kind::kMount: return &Loader::Make<Mount>;
    case Kind::kDentry: return &Loader::Make<Dentry>;
    case Kind::kGoferFileSystem: return &Loader::Make<GoferFileSystem>;
    case Kind::kTmpfsFileSystem: return &Loader::Make<TmpfsFileSystem>;
    case Kind::kOverlayFileSystem: return &Loader::Make<OverlayFileSystem>;
    case Kind::kProcFileSystem: return &Loader::Make<ProcFileSystem>;
    case Kind::kDevptsFileSystem: return &Loader::Make<DevptsFileSystem>;
    case Kind::kCgroupFileSystem: return &Loader::Make<CgroupFileSystem>;
    case Kind::kSysFileSystem: return &Loader::Make<SysFileSystem>;
    case Kind::kGoferInode: return &Loader::Make<GoferInode>;
    case Kind::kTmpfsInode: return &Loader::Make<TmpfsInode>;
    case Kind::kOverlayInode: return &Loader::Make<OverlayInode>;
    case Kind::kProcInode: return &Loader::Make<ProcInode>;
    case Kind::kDevptsInode: return &Loader::Make<DevptsInode>;
    case Kind::kPipeInode: return &Loader::Make<FifoState>;
    case Kind::kRegularFile: return &Loader::Make<RegularFile>;
    case Kind::kDirectoryFile: return &Loader::Make<DirectoryFile>;
    case Kind::kPipe: return &Loader::Make<Pipe>;
    case Kind::kPipeEnd: return &Loader::Make<PipeEnd>;
    case Kind::kEventFd: return &Loader::Make<EventFd>;
    case Kind::kEpoll: return &Loader::Make<Epoll>;
    case Kind::kTimerFd: return &Loader::Make<TimerFd>;
    case Kind::kSignalFd: return &Loader::Make<SignalFd>;
    case Kind::kNetNamespace: return &Loader::Make<NetNamespace>;
    case Kind::kTcpConnection: return &Loader::Make<net::TcpConnection>;
    case Kind::kTcpSocket: return &Loader::Make<TcpSocket>;
    case Kind::kUdpSocket: return &Loader::Make<UdpSocket>;
    case Kind::kHostSocket: return &Loader::Make<HostSocket>;
    case Kind::kNetlinkSocket: return &Loader::Make<NetlinkSocket>;
    case Kind::kRawSocket: return &Loader::Make<RawSocket>;
    case Kind::kUnixSocket: return &Loader::Make<UnixSocket>;
    case Kind::kPidFd: return &Loader::Make<PidFd>;
    case Kind::kFanotify: return &Loader::Make<Fanotify>;
    case Kind::kInotify: return &Loader::Make<Inotify>;
    case Kind::kTty: return &Loader::Make<Tty>;
    case Kind::kTtyFile: return &Loader::Make<TtyFile>;
    case Kind::kDeviceFile: return &Loader::Make<DeviceFile>;
    case Kind::kProcFile: return &Loader::Make<ProcTextFile>;
    case Kind::kProcMemFile: return &Loader::Make<ProcMemFile>;
    case Kind::kHostFile: return &Loader::Make<HostFile>;
    case Kind::kPathFile: return &Loader::Make<PathFile>;
    case Kind::kMemFd: return &Loader::Make<MemFd>;
    case Kind::kFifoFile: return &Loader::Make<FifoFile>;
    case Kind::kShmSegment: return &Loader::Make<ShmSegment>;
    case Kind::kShmFile: return &Loader::Make<ShmFile>;
    case Kind::kSemUndo: return &Loader::Make<SemUndo>;
    case Kind::kMqueueFileSystem: return &Loader::Make<MqueueFileSystem>;
    case Kind::kMqueueInode: return &Loader::Make<MqueueInode>;
    case Kind::kMqueueFile: return &Loader::Make<MqueueFile>;
    case Kind::kMountFile: return &Loader::Make<MountFile>;
    case Kind::kFsConfigFile: return &Loader::Make<FsConfigFile>;
    default: return nullptr;  // the kernel itself is provided, not made
  }
}

}  // namespace amber::state
