// Arbitrary bytes as an image file: what can be found in it is listed, read and mapped. The first byte says where the format's magic is put in, so that
// the fuzzer need not find it.
#include <sys/mman.h>
#include <unistd.h>

#include "sentry/fs/image/image_fs.h"
#include "sentry/vfs/test_tree.h"

namespace amber {
namespace {

void Visit(const VfsContext& ctx, const RefPtr<Inode>& dir, int depth, int* budget) {
  auto names = dir->List(ctx);
  if (!names.ok()) return;
  for (const DirEnt& e : *names) {
    if (--*budget < 0) return;
    auto child = dir->Lookup(ctx, e.name);
    if (!child.ok()) continue;
    (void)(*child)->ReadLink(ctx);
    auto xattrs = (*child)->ListXattr();
    if (xattrs.ok()) {
      for (const std::string& name : *xattrs) (void)(*child)->GetXattr(name);
    }
    if ((*child)->IsRegular() && (*child)->BeginIo(false).ok()) {
      char bytes[512];
      (void)(*child)->ReadBytes(bytes, sizeof(bytes), 0);
      (void)(*child)->ReadBytes(bytes, sizeof(bytes), (*child)->attr().size - (*child)->attr().size / 3);
      if ((*child)->attr().size < (1 << 20)) {
        auto source = (*child)->MapContents(false);
        // What is mapped of the image must be in it.
        if (source.ok() && source->rest_fd >= 0) {
          off_t end = lseek(source->fd, 0, SEEK_END);
          if (end < 0 || source->offset + source->rest_from > static_cast<uint64_t>(end)) __builtin_trap();
        }
      }
      (*child)->EndIo(false);
    }
    if ((*child)->IsDir() && depth < 4) Visit(ctx, *child, depth + 1, budget);
  }
}

}  // namespace
}  // namespace amber

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace amber;
  if (size < 1) return 0;
  std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 0 && bytes.size() >= 1024 + 128) {
    bytes.replace(1024, 4, "\xe2\xe1\xf5\xe0");
    bytes[1024 + 12] = static_cast<char>(9 + data[0] / 2 % 4);
    for (size_t at : {80, 84, 85, 90}) bytes[1024 + at] = at == 80 ? 4 | (data[0] >> 4 & 3) : 0;
  } else if (bytes.size() >= 512) {
    // Checksums of headers where they would be: every 512 bytes that begin with a letter.
    for (size_t at = 0; at + 512 <= bytes.size(); at += 512) {
      if (bytes[at] < '.' || bytes[at] > 'z') continue;
      bytes.replace(at + 148, 8, "        ");
      unsigned sum = 0;
      for (size_t i = at; i < at + 512; ++i) sum += static_cast<unsigned char>(bytes[i]);
      char text[16];
      snprintf(text, sizeof(text), "%06o", sum);
      bytes.replace(at + 148, 6, text, 6);
    }
  }
  UniqueFd fd(memfd_create("fuzz", MFD_CLOEXEC));
  if (write(fd.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) return 0;
  auto source = ImageSource::Open(std::move(fd));
  if (!source.ok()) return 0;
  auto fs = ImageFileSystem::Make(std::move(*source), {"c", "root"});
  if (!fs.ok()) return 0;
  TestTree tree(std::move(*fs));
  int budget = 200;
  Visit(tree.ctx(), RefPtr<Inode>(tree.ns->root().inode()), 0, &budget);
  return 0;
}
