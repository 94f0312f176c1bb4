#include "sentry/fs/pipe/pipe.h"

#include <poll.h>

#include "gtest/gtest.h"
#include "sentry/kernel/test_task.h"

namespace amber {
namespace {

class PipeTest : public testing::Test {
 protected:
  ErrnoOr<size_t> Write(File& f, std::string_view text) {
    BufferSource source(text.data(), text.size());
    return f.Write(t_.task(), source);
  }
  ErrnoOr<std::string> Read(File& f, size_t size) {
    std::string text(size, '\0');
    BufferSink sink(text.data(), size);
    text.resize(TRY(f.Read(t_.task(), sink)));
    return text;
  }
  TestTask t_;
  PipePair p_ = NewPipe(t_.task(), 0);
};

TEST_F(PipeTest, BytesComeOutAsTheyWentIn) {
  EXPECT_TRUE(Read(*p_.reader, 10).Is(EAGAIN));
  EXPECT_EQ(Write(*p_.writer, "hello ").value(), 6u);
  EXPECT_EQ(Write(*p_.writer, "world").value(), 5u);
  EXPECT_EQ(Read(*p_.reader, 8).value(), "hello wo");
  EXPECT_EQ(Read(*p_.reader, 100).value(), "rld");
}

TEST_F(PipeTest, RingWrapsAndGrows) {
  std::string chunk(3000, 'a');
  for (int i = 0; i < 50; ++i) {
    chunk[0] = static_cast<char>('a' + i % 26);
    ASSERT_EQ(Write(*p_.writer, chunk).value(), chunk.size());
    ASSERT_EQ(Write(*p_.writer, chunk).value(), chunk.size());
    ASSERT_EQ(Read(*p_.reader, 6000).value(), chunk + chunk);
  }
}

TEST_F(PipeTest, SmallWritesAreAtomicLargeOnesAreNot) {
  std::string big(70000, 'x');
  EXPECT_EQ(Write(*p_.writer, big).value(), 65536u);
  EXPECT_TRUE(Write(*p_.writer, "y").Is(EAGAIN));
  EXPECT_EQ(p_.writer->Poll(t_.task()) & POLLOUT, 0u);
  EXPECT_EQ(Read(*p_.reader, 100).value().size(), 100u);
  EXPECT_TRUE(Write(*p_.writer, std::string(200, 'z')).Is(EAGAIN));
  EXPECT_EQ(Write(*p_.writer, std::string(100, 'z')).value(), 100u);
}

TEST_F(PipeTest, EndOfFileAndBrokenPipe) {
  Write(*p_.writer, "rest").value();
  p_.writer.reset();
  EXPECT_NE(p_.reader->Poll(t_.task()) & POLLHUP, 0u);
  EXPECT_EQ(Read(*p_.reader, 10).value(), "rest");
  EXPECT_EQ(Read(*p_.reader, 10).value(), "");
  PipePair other = NewPipe(t_.task(), 0);
  other.reader.reset();
  t_.task().SetBlocked(SignalBit(SIGPIPE));
  EXPECT_TRUE(Write(*other.writer, "x").Is(EPIPE));
  EXPECT_NE(t_.task().pending() & SignalBit(SIGPIPE), 0u);
  EXPECT_NE(other.writer->Poll(t_.task()) & POLLERR, 0u);
}

TEST_F(PipeTest, PacketsStayApart) {
  PipePair p = NewPipe(t_.task(), O_DIRECT);
  Write(*p.writer, "one").value();
  Write(*p.writer, "two").value();
  EXPECT_EQ(Read(*p.reader, 100).value(), "one");
  EXPECT_EQ(Read(*p.reader, 2).value(), "tw");
  EXPECT_TRUE(Read(*p.reader, 10).Is(EAGAIN));
}

TEST_F(PipeTest, Capacity) {
  EXPECT_EQ(p_.reader->Fcntl(t_.task(), F_GETPIPE_SZ, 0).value(), 65536u);
  EXPECT_EQ(p_.reader->Fcntl(t_.task(), F_SETPIPE_SZ, 5000).value(), 8192u);
  Write(*p_.writer, std::string(5000, 'x')).value();
  EXPECT_TRUE(p_.reader->Fcntl(t_.task(), F_SETPIPE_SZ, 4096).Is(EBUSY));
}

}  // namespace
}  // namespace amber
