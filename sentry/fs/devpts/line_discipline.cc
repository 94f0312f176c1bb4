#include "sentry/fs/devpts/line_discipline.h"

#include <termios.h>

#include <algorithm>
#include <utility>

namespace amber {
namespace {

constexpr uint8_t kControlD = 4;
constexpr uint32_t kTabs3 = 0014000;  // TAB3: expand tabs

// Case as Linux's ctype table has it: Latin-1.
uint8_t ToLower(uint8_t c) {
  bool upper = (c >= 'A' && c <= 'Z') || (c >= 0xc0 && c <= 0xde && c != 0xd7);
  return static_cast<uint8_t>(upper ? c + 32 : c);
}
uint8_t ToUpper(uint8_t c) {
  bool lower = (c >= 'a' && c <= 'z') || (c >= 0xdf && c != 0xf7);
  return static_cast<uint8_t>(lower ? c - 32 : c);
}

bool IsControl(uint8_t c) { return c < 32 || c == 127; }
bool IsContinuation(uint8_t c) { return (c & 0xc0) == 0x80; }
bool IsWord(uint8_t c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c >= 0x80; }

}  // namespace

Termios Termios::Default() {
  Termios t{};
  t.iflag = ICRNL | IXON;
  t.oflag = OPOST | ONLCR;
  t.cflag = B38400 | CS8 | CREAD;
  t.lflag = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN;
  t.cc[VINTR] = 3, t.cc[VQUIT] = 28, t.cc[VERASE] = 127, t.cc[VKILL] = 21, t.cc[VEOF] = kControlD, t.cc[VMIN] = 1;
  t.cc[VSTART] = 17, t.cc[VSTOP] = 19, t.cc[VSUSP] = 26, t.cc[VREPRINT] = 18, t.cc[VDISCARD] = 15, t.cc[VWERASE] = 23;
  t.cc[VLNEXT] = 22;
  t.ispeed = t.ospeed = 38400;
  return t;
}

void Termios::KeepLocked(const Termios& old, const Termios& locked) {
  for (uint32_t Termios::* flags : {&Termios::iflag, &Termios::oflag, &Termios::cflag, &Termios::lflag}) {
    this->*flags = (old.*flags & locked.*flags) | (this->*flags & ~(locked.*flags));
  }
  if (locked.line != 0) line = old.line;
  for (size_t i = 0; i < std::size(cc); ++i) {
    if (locked.cc[i] != 0) cc[i] = old.cc[i];
  }
}

void LineDiscipline::SetTermios(const Termios& termios) {
  bool was_canonical = Canonical();
  termios_ = termios;
  // A pty has eight bits and no parity, whatever is asked for (pty_set_termios()).
  termios_.cflag = (termios_.cflag & ~uint32_t{CSIZE | PARENB}) | CS8 | CREAD;
  bool canonical = Canonical();
  if (was_canonical && !canonical) {
    // What was typed so far, finished or not, can be read at once.
    for (Line& l : lines_) raw_ += l.data;
    raw_ += line_;
    lines_.clear();
    line_.clear();
    line_bytes_ = ends_ = 0;
  } else if (!was_canonical && canonical && !raw_.empty()) {
    PushLine(std::exchange(raw_, {}), true);
  }
  if (!Has(IXON)) stopped_ = false;
}

size_t LineDiscipline::InputRoom() const {
  size_t used = line_bytes_ + ends_ + line_.size() + raw_.size();
  size_t room = kInputLimit - 1 - std::min(used, kInputLimit - 1);
  // An endless first line must not lock the terminal up: its rest is taken and dropped.
  if (room == 0 && Canonical() && lines_.empty()) return kInputLimit;
  return room;
}

size_t LineDiscipline::Receive(std::string_view bytes, int* signo) {
  *signo = 0;
  size_t done = 0;
  while (done < bytes.size() && InputRoom() > 0) {
    *signo = ReceiveByte(static_cast<uint8_t>(bytes[done++]));
    if (*signo != 0) break;
  }
  return done;
}

bool LineDiscipline::ReceiveControl(uint8_t c, int* signo) {
  if (Has(IXON)) {
    if (Is(c, VSTART)) {
      stopped_ = false;
      return true;
    }
    if (Is(c, VSTOP)) {
      stopped_ = true;
      return true;
    }
  }
  if (!Local(ISIG)) return false;
  if (Is(c, VINTR)) {
    *signo = SIGINT;
  } else if (Is(c, VQUIT)) {
    *signo = SIGQUIT;
  } else if (Is(c, VSUSP)) {
    *signo = SIGTSTP;
  } else {
    return false;
  }
  if (!Local(NOFLSH)) {
    FlushInput();
    FlushOutput();
  }
  if (Has(IXON)) stopped_ = false;
  if (Local(ECHO)) Echo(c);
  return true;
}

int LineDiscipline::ReceiveByte(uint8_t c) {
  if (Has(ISTRIP)) c &= 0x7f;
  if (Has(IUCLC) && Local(IEXTEN)) c = ToLower(c);
  // Whoever has the master does all that is done here.
  if (Local(EXTPROC)) {
    raw_ += static_cast<char>(c);
    return 0;
  }
  if (literal_next_) {
    literal_next_ = false;
    AddToLine(c);
    return 0;
  }
  int signo = 0;
  if (ReceiveControl(c, &signo)) return signo;
  if (stopped_ && Has(IXON) && Has(IXANY)) stopped_ = false;
  bool returned = c == '\r';
  if (returned) {
    if (Has(IGNCR)) return 0;
    if (Has(ICRNL)) c = '\n';
  } else if (c == '\n' && Has(INLCR)) {
    c = '\r';
  }
  if (Local(ICANON)) {
    if (!Edit(c)) AddToLine(c);
    return 0;
  }
  // A return that became a newline is echoed as one; a newline is a control character here (n_tty_receive_char_special()).
  if (Local(ECHO) && returned && c == '\n') {
    FinishErasing();
    Put(c);
  } else if (Local(ECHO)) {
    EchoTyped(c);
  }
  if (IsMarked(c)) raw_ += static_cast<char>(c);
  raw_ += static_cast<char>(c);
  return 0;
}

bool LineDiscipline::Edit(uint8_t c) {
  bool extended = Local(IEXTEN);
  if (Is(c, VERASE)) {
    EraseOne();
    if (line_.empty() && Local(ECHO)) FinishErasing();
  } else if (extended && Is(c, VWERASE)) {
    EraseWord();
  } else if (Is(c, VKILL)) {
    KillLine();
  } else if (extended && Is(c, VLNEXT)) {
    literal_next_ = true;
    if (Local(ECHO)) FinishErasing();
    if (Local(ECHO) && Local(ECHOCTL)) PutRaw("^\b");
  } else if (extended && Local(ECHO) && Is(c, VREPRINT)) {
    Reprint();
  } else if (c == '\n') {
    if (Local(ECHO) || Local(ECHONL)) Put('\n');
    line_ += '\n';
    FinishLine(false);
  } else if (Is(c, VEOF)) {
    FinishLine(true);
  } else if (Is(c, VEOL) || (extended && Is(c, VEOL2))) {
    if (Local(ECHO)) Echo(c);
    line_ += static_cast<char>(c);
    FinishLine(false);
  } else {
    return false;
  }
  return true;
}

void LineDiscipline::FinishLine(bool eof) { PushLine(std::exchange(line_, {}), eof); }

void LineDiscipline::PushLine(std::string data, bool eof) {
  line_bytes_ += data.size();
  ends_ += eof ? 1 : 0;
  lines_.push_back({std::move(data), eof});
}

void LineDiscipline::AddToLine(uint8_t c) {
  if (!Local(ICANON)) {
    raw_ += static_cast<char>(c);
    if (Local(ECHO)) EchoTyped(c);
    return;
  }
  if (line_bytes_ + line_.size() >= kInputLimit - 1) {
    if (Has(IMAXBEL)) Put('\a');
    return;
  }
  if (line_.empty()) line_column_ = column_;
  if (IsMarked(c)) line_ += static_cast<char>(c);
  line_ += static_cast<char>(c);
  if (Local(ECHO)) EchoTyped(c);
}

void LineDiscipline::EchoTyped(uint8_t c) {
  FinishErasing();
  Echo(c);
}

void LineDiscipline::Echo(uint8_t c) {
  if (Local(ECHOCTL) && IsControl(c) && c != '\t') {
    char text[2] = {'^', static_cast<char>(c ^ 0100)};
    PutRaw({text, 2});
    column_ += 2;
    return;
  }
  Put(c);
}

size_t LineDiscipline::WidthOfLast() const {
  auto c = static_cast<uint8_t>(line_.back());
  if (c == '\t') {
    size_t column = line_column_;
    for (size_t i = 0; i + 1 < line_.size(); ++i) {
      auto b = static_cast<uint8_t>(line_[i]);
      if (b == '\t') {
        column = (column | 7) + 1;
      } else if (IsControl(b)) {
        column += Local(ECHOCTL) ? 2 : 0;
      } else if (!Has(IUTF8) || !IsContinuation(b)) {
        ++column;
      }
    }
    return ((column | 7) + 1) - column;
  }
  if (IsControl(c)) return Local(ECHOCTL) ? 2 : 0;
  return 1;
}

void LineDiscipline::EraseOne() {
  if (line_.empty()) return;
  size_t width = WidthOfLast();
  auto c = static_cast<uint8_t>(line_.back());
  // A character of UTF-8 goes as a whole.
  size_t begin = line_.size() - 1;
  if (Has(IUTF8)) {
    while (begin > 0 && IsContinuation(static_cast<uint8_t>(line_[begin]))) --begin;
  }
  std::string erased = line_.substr(begin);
  line_.resize(begin);
  if (!Local(ECHO)) return;
  if (Local(ECHOPRT)) return PrintErased(erased);
  if (!Local(ECHOE)) return Echo(termios_.cc[VERASE]);
  for (size_t i = 0; i < width; ++i) PutRaw(c == '\t' ? "\b" : "\b \b");
  column_ -= static_cast<uint32_t>(std::min<size_t>(width, column_));
}

// As on a terminal of paper: what goes is printed once more, between a backslash and a slash.
void LineDiscipline::PrintErased(std::string_view erased) {
  if (!erasing_) Put('\\');
  erasing_ = true;
  Echo(static_cast<uint8_t>(erased[0]));
  PutRaw(erased.substr(1));
}

void LineDiscipline::FinishErasing() {
  if (erasing_) Put('/');
  erasing_ = false;
}

void LineDiscipline::EraseWord() {
  bool seen = false;
  while (!line_.empty()) {
    bool word = IsWord(static_cast<uint8_t>(line_.back()));
    if (!word && seen) return;
    seen = seen || word;
    EraseOne();
  }
  if (Local(ECHO)) FinishErasing();  // the line is empty
}

void LineDiscipline::KillLine() {
  if (Local(ECHO) && !(Local(ECHOK) && Local(ECHOKE) && Local(ECHOE))) {
    line_.clear();
    FinishErasing();
    Echo(termios_.cc[VKILL]);
    if (Local(ECHOK)) Put('\n');
    return;
  }
  while (!line_.empty()) EraseOne();
  if (Local(ECHO)) FinishErasing();
}

void LineDiscipline::Reprint() {
  // Nobody would see any of it, however often it is asked for.
  if (output_.size() >= kOutputLimit) return;
  FinishErasing();
  Echo(termios_.cc[VREPRINT]);
  Put('\n');
  line_column_ = column_;
  for (char c : line_) Echo(static_cast<uint8_t>(c));
}

size_t LineDiscipline::InputAvailable() const {
  if (!Canonical()) return raw_.size();
  return line_bytes_;
}

bool LineDiscipline::InputReady() const { return Canonical() ? !lines_.empty() : !raw_.empty(); }

std::string LineDiscipline::ReadInput(size_t size) {
  if (!Canonical()) {
    std::string out = raw_.substr(0, size);
    raw_.erase(0, out.size());
    // A sole end of file is one all the same (copy_from_read_buf()).
    if (Local(ICANON) && out.size() == 1 && Is(static_cast<uint8_t>(out[0]), VEOF)) out.clear();
    return out;
  }
  if (lines_.empty()) return "";
  Line& line = lines_.front();
  std::string out = line.data.substr(0, size);
  line.data.erase(0, out.size());
  line_bytes_ -= out.size();
  // An end of file behind bytes is used up with the last of them, not left as an empty read.
  if (!line.data.empty()) return out;
  ends_ -= line.eof ? 1 : 0;
  lines_.pop_front();
  return out;
}

void LineDiscipline::UnreadInput(std::string bytes) {
  if (!Canonical()) {
    raw_.insert(0, bytes);
    return;
  }
  line_bytes_ += bytes.size();
  lines_.push_front({std::move(bytes), false});
}

void LineDiscipline::FlushInput() {
  lines_.clear();
  line_.clear();
  raw_.clear();
  line_bytes_ = ends_ = 0;
  literal_next_ = false;
}

void LineDiscipline::PutRaw(std::string_view bytes) {
  // Echo has a little room of its own, and is dropped beyond.
  if (output_.size() + bytes.size() <= kOutputLimit + kInputLimit) output_ += bytes;
}

void LineDiscipline::Put(uint8_t c) {
  if ((termios_.oflag & OPOST) != 0) {
    switch (c) {
      case '\n':
        if ((termios_.oflag & ONLRET) != 0) column_ = 0;
        if ((termios_.oflag & ONLCR) != 0) {
          column_ = 0;
          return PutRaw("\r\n");
        }
        break;
      case '\r':
        if ((termios_.oflag & ONOCR) != 0 && column_ == 0) return;
        if ((termios_.oflag & OCRNL) != 0) {
          if ((termios_.oflag & ONLRET) != 0) column_ = 0;
          return PutRaw("\n");
        }
        column_ = 0;
        break;
      case '\t': {
        uint32_t spaces = 8 - (column_ & 7);
        column_ += spaces;
        if ((termios_.oflag & TABDLY) == kTabs3) return PutRaw(std::string(spaces, ' '));
        break;
      }
      case '\b':
        if (column_ > 0) --column_;
        break;
      default:
        if (IsControl(c)) break;
        if ((termios_.oflag & OLCUC) != 0) c = ToUpper(c);
        if (!Has(IUTF8) || !IsContinuation(c)) ++column_;
        break;
    }
  }
  char one = static_cast<char>(c);
  PutRaw({&one, 1});
}

size_t LineDiscipline::WriteOutput(std::string_view bytes) {
  size_t done = 0;
  while (done < bytes.size() && OutputRoom()) Put(static_cast<uint8_t>(bytes[done++]));
  return done;
}

LineDiscipline::State LineDiscipline::GetState() const {
  State s;
  for (const Line& l : lines_) s.lines.emplace_back(l.data, l.eof);
  s.line = line_, s.raw = raw_, s.output = output_;
  s.stopped = stopped_, s.literal_next = literal_next_, s.erasing = erasing_, s.column = column_;
  return s;
}

void LineDiscipline::SetState(State state, const Termios& termios) {
  termios_ = termios;
  for (auto& [data, eof] : state.lines) PushLine(std::move(data), eof);
  line_ = std::move(state.line), raw_ = std::move(state.raw), output_ = std::move(state.output);
  stopped_ = state.stopped, literal_next_ = state.literal_next, erasing_ = state.erasing, column_ = state.column;
}

}  // namespace amber
