#include "sentry/vfs/text_file.h"

#include <algorithm>

namespace amber {

ErrnoOr<size_t> TextFile::PRead(Task& task, Sink& sink, uint64_t offset) {
  if (offset == 0 || !made_) {
    text_ = TRY(MakeText(task));
    made_ = true;
  }
  if (offset >= text_.size() || sink.remaining() == 0) return size_t{0};
  return sink.Put(text_.data() + offset, std::min<size_t>(text_.size() - offset, sink.remaining()));
}

ErrnoOr<size_t> TextFile::Read(Task& task, Sink& sink) {
  size_t n = TRY(PRead(task, sink, position_));
  position_ += n;
  return n;
}

ErrnoOr<size_t> TextFile::PWrite(Task& task, Source& source, uint64_t) {
  size_t size = source.remaining();
  TRY(MayWrite(task, size));
  std::string text(size, '\0');
  if (size > 0) text.resize(TRY(source.Take(text.data(), size)));
  std::string_view line = text;
  while (!line.empty() && (line.back() == '\n' || line.back() == '\0')) line.remove_suffix(1);
  TRY(TakeText(task, line));
  return text.size();
}

ErrnoOr<size_t> TextFile::Write(Task& task, Source& source) {
  size_t n = TRY(PWrite(task, source, position_));
  position_ += n;
  made_ = false;
  return n;
}

ErrnoOr<uint64_t> TextFile::Seek(Task&, int64_t offset, int whence) {
  if (whence != SEEK_SET && whence != SEEK_CUR && whence != SEEK_END) return Errno(EINVAL);
  int64_t base = whence == SEEK_CUR ? static_cast<int64_t>(position_) : 0, to = 0;
  if (__builtin_add_overflow(base, offset, &to) || to < 0) return Errno(EINVAL);
  position_ = static_cast<uint64_t>(to);
  return position_;
}

}  // namespace amber
