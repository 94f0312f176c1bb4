#include "sentry/fs/devpts/line_discipline.h"

#include <termios.h>

#include "gtest/gtest.h"

namespace amber {
namespace {

class LineDisciplineTest : public testing::Test {
 protected:
  int Type(std::string_view text) {
    int signo = 0;
    size_t done = 0;
    while (done < text.size()) {
      int s = 0;
      size_t n = d_.Receive(text.substr(done), &s);
      if (s != 0) signo = s;
      if (n == 0) break;
      done += n;
    }
    return signo;
  }
  std::string Screen() { return std::exchange(d_.output(), {}); }
  void Change(uint32_t iflag_off, uint32_t lflag_off, uint32_t iflag_on = 0, uint32_t lflag_on = 0) {
    Termios t = d_.termios();
    t.iflag = (t.iflag & ~iflag_off) | iflag_on;
    t.lflag = (t.lflag & ~lflag_off) | lflag_on;
    d_.SetTermios(t);
  }
  LineDiscipline d_;
};

TEST_F(LineDisciplineTest, ALineIsReadWhenItIsComplete) {
  Type("hello");
  EXPECT_FALSE(d_.InputReady());
  Type("\r");
  EXPECT_TRUE(d_.InputReady());
  EXPECT_EQ(d_.ReadInput(100), "hello\n");
  EXPECT_EQ(Screen(), "hello\r\n");
}

TEST_F(LineDisciplineTest, AReadGetsOneLineAtMost) {
  Type("one\ntwo\n");
  EXPECT_EQ(d_.ReadInput(2), "on");
  EXPECT_EQ(d_.ReadInput(100), "e\n");
  EXPECT_EQ(d_.ReadInput(100), "two\n");
  EXPECT_FALSE(d_.InputReady());
}

TEST_F(LineDisciplineTest, EraseWordAndKillEditTheLine) {
  Type("ab\177c");
  EXPECT_EQ(Screen(), "ab\b \bc");
  Type(" word\x17");
  Type("x\n");
  EXPECT_EQ(d_.ReadInput(100), "ac x\n");
  Type("gone\x15kept\n");
  EXPECT_EQ(d_.ReadInput(100), "kept\n");
}

TEST_F(LineDisciplineTest, EraseOfControlCharactersTabsAndUtf8) {
  Type("\x16\x01");
  EXPECT_EQ(Screen(), "^\b^A");
  Type("\177");
  EXPECT_EQ(Screen(), "\b \b\b \b");
  Type("ab\t");
  Screen();
  Type("\177");
  EXPECT_EQ(Screen(), "\b\b\b\b\b\b");
  Change(0, 0, IUTF8);
  Type("\xc3\xa9");
  Screen();
  Type("\177");
  EXPECT_EQ(Screen(), "\b \b");
  Type("\n");
  EXPECT_EQ(d_.ReadInput(100), "ab\n");
}

TEST_F(LineDisciplineTest, EndOfFile) {
  Type("\x04");
  EXPECT_TRUE(d_.InputReady());
  EXPECT_EQ(d_.ReadInput(10), "");
  EXPECT_FALSE(d_.InputReady());
  // Behind bytes it only delivers them.
  Type("abc\x04");
  EXPECT_EQ(d_.ReadInput(10), "abc");
  EXPECT_FALSE(d_.InputReady());
}

TEST_F(LineDisciplineTest, SignalsFlushAndAreEchoed) {
  Type("abc");
  Screen();
  EXPECT_EQ(Type("\x03"), SIGINT);
  EXPECT_EQ(Screen(), "^C");
  EXPECT_EQ(Type("\x1c"), SIGQUIT);
  EXPECT_EQ(Type("\x1a"), SIGTSTP);
  Type("x\n");
  EXPECT_EQ(d_.ReadInput(10), "x\n");
  Change(0, ISIG);
  EXPECT_EQ(Type("\x03\n"), 0);
  EXPECT_EQ(d_.ReadInput(10), "\x03\n");
}

TEST_F(LineDisciplineTest, LiteralNext) {
  EXPECT_EQ(Type("\x16\x03\n"), 0);
  EXPECT_EQ(d_.ReadInput(10), "\x03\n");
}

TEST_F(LineDisciplineTest, FlowControl) {
  Type("\x13");
  EXPECT_TRUE(d_.stopped());
  EXPECT_EQ(d_.WriteOutput("x"), 0u);
  Type("\x11");
  EXPECT_EQ(d_.WriteOutput("x"), 1u);
  EXPECT_EQ(Screen(), "x");
}

TEST_F(LineDisciplineTest, RawMode) {
  Change(ICRNL | IXON, ICANON | ECHO | ISIG | IEXTEN);
  Type("a\r\x03\x13");
  EXPECT_TRUE(d_.InputReady());
  EXPECT_EQ(d_.ReadInput(10), "a\r\x03\x13");
  EXPECT_EQ(Screen(), "");
}

TEST_F(LineDisciplineTest, ChangingTheModeKeepsWhatWasTyped) {
  Type("line\npart");
  Change(0, ICANON);
  EXPECT_EQ(d_.ReadInput(100), "line\npart");
  Type("more");
  Change(0, 0, 0, ICANON);
  EXPECT_TRUE(d_.InputReady());
  EXPECT_EQ(d_.ReadInput(100), "more");
}

TEST_F(LineDisciplineTest, OutputProcessing) {
  EXPECT_EQ(d_.WriteOutput("a\nb"), 3u);
  EXPECT_EQ(Screen(), "a\r\nb");
  Termios t = d_.termios();
  t.oflag = 0;
  d_.SetTermios(t);
  d_.WriteOutput("a\nb");
  EXPECT_EQ(Screen(), "a\nb");
  t.oflag = OPOST | OCRNL | TABDLY;
  d_.SetTermios(t);
  // A return that becomes a newline leaves the column where it was: behind the first "b".
  d_.WriteOutput("\r\tx");
  EXPECT_EQ(Screen(), "\n       x");
}

TEST_F(LineDisciplineTest, AnEndlessLineIsCutAndTheRestTaken) {
  std::string longest(10000, 'x');
  Type(longest);
  Type("\n");
  EXPECT_EQ(d_.ReadInput(100000).size(), LineDiscipline::kInputLimit);
}

TEST_F(LineDisciplineTest, InputStopsWhenLinesWait) {
  std::string line(99, 'y');
  line += '\n';
  size_t total = 0;
  for (int i = 0; i < 100; ++i) {
    int s;
    total += d_.Receive(line, &s);
  }
  EXPECT_LE(total, LineDiscipline::kInputLimit);
  while (d_.InputReady()) total -= d_.ReadInput(4096).size();
  EXPECT_GT(d_.InputRoom(), 3000u);
}

TEST_F(LineDisciplineTest, EndsOfFilesTakeRoom) {
  size_t taken = 0;
  for (int i = 0; i < 10; ++i) {
    int s;
    taken += d_.Receive(std::string(1000, '\4'), &s);
  }
  EXPECT_LT(taken, LineDiscipline::kInputLimit);
  LineDiscipline other;
  other.SetState(d_.GetState(), d_.termios());
  EXPECT_EQ(other.InputRoom(), 0u);
  EXPECT_EQ(d_.ReadInput(100), "");
  EXPECT_EQ(d_.InputRoom(), 1u);
  d_.FlushInput();
  EXPECT_EQ(d_.InputRoom(), LineDiscipline::kInputLimit - 1);
}

TEST_F(LineDisciplineTest, StateSurvives) {
  Type("done\nhalf");
  LineDiscipline other;
  other.SetState(d_.GetState(), d_.termios());
  int s;
  other.Receive("way\n", &s);
  EXPECT_EQ(other.ReadInput(100), "done\n");
  EXPECT_EQ(other.ReadInput(100), "halfway\n");
}

}  // namespace
}  // namespace amber
