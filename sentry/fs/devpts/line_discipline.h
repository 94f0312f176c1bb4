// N_TTY: what happens to bytes between a terminal and its programs (termios(3), drivers/tty/n_tty.c).
//
// Plain data and rules; it knows no tasks, files or queues, and so is tested alone. Owned by a Tty; kernel lock.
//
//   master writes -> Receive() -> editing, signals, echo -> ReadInput() -> slave reads
//   slave writes  -> WriteOutput() -> output processing  -> output()    -> master reads
#pragma once

#include <signal.h>
#include <termios.h>

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

namespace amber {

// The kernel's struct termios2.
struct Termios {
  uint32_t iflag, oflag, cflag, lflag;
  uint8_t line;
  uint8_t cc[19];
  uint32_t ispeed, ospeed;
  static Termios Default();
  // unset_locked_termios(): what is set in `locked` stays as it was in `old`.
  void KeepLocked(const Termios& old, const Termios& locked);
};
static_assert(sizeof(Termios) == 44);

class LineDiscipline {
 public:
  static constexpr size_t kInputLimit = 4096;    // N_TTY_BUF_SIZE
  static constexpr size_t kOutputLimit = 65536;  // what a pty buffers towards its master

  const Termios& termios() const { return termios_; }
  void SetTermios(const Termios& termios);

  // Bytes from the terminal. Takes as many as there is room for and returns how many; stops behind a byte that makes a
  // signal, which is then in `signo` (else 0).
  size_t Receive(std::string_view bytes, int* signo);
  // How many bytes a read would get now. In canonical mode only complete lines count.
  size_t InputAvailable() const;
  // A read may return now, perhaps with 0 bytes (end of file).
  bool InputReady() const;
  // Takes at most `size` bytes, in canonical mode at most one line.
  std::string ReadInput(size_t size);
  // Puts bytes back that could not be delivered.
  void UnreadInput(std::string bytes);
  size_t InputRoom() const;
  void FlushInput();

  // Bytes of a program: returns how many were taken, 0 while output is stopped or full.
  size_t WriteOutput(std::string_view bytes);
  std::string& output() { return output_; }
  const std::string& output() const { return output_; }
  bool OutputRoom() const { return !stopped_ && output_.size() < kOutputLimit; }
  void FlushOutput() { output_.clear(); }
  bool stopped() const { return stopped_; }
  void set_stopped(bool stopped) { stopped_ = stopped; }

  // For the image.
  struct State {
    std::deque<std::pair<std::string, bool>> lines;  // and whether an end of file closes it
    std::string line, raw, output;
    bool stopped = false, literal_next = false, erasing = false;
    uint32_t column = 0;
  };
  State GetState() const;
  void SetState(State state, const Termios& termios);

 private:
  struct Line {
    std::string data;
    bool eof;  // ended by VEOF: an empty one reads as 0 bytes
  };

  bool Has(uint32_t iflag_bit) const { return (termios_.iflag & iflag_bit) != 0; }
  bool Local(uint32_t lflag_bit) const { return (termios_.lflag & lflag_bit) != 0; }
  bool Is(uint8_t c, int index) const { return c != 0 && termios_.cc[index] == c; }

  // With EXTPROC lines are whole when they come.
  bool Canonical() const { return Local(ICANON) && !Local(EXTPROC); }
  // Doubled, so that it is not taken for a mark of an error.
  bool IsMarked(uint8_t c) const { return c == 0xff && Has(PARMRK) && !Has(ISTRIP); }

  // One byte. Returns the signal that it makes, or 0.
  int ReceiveByte(uint8_t c);
  // Handles flow control and signal characters; true if `c` is consumed.
  bool ReceiveControl(uint8_t c, int* signo);
  // Canonical mode's editing; true if `c` is consumed.
  bool Edit(uint8_t c);
  void EraseOne();
  void EraseWord();
  void KillLine();
  void Reprint();
  void FinishLine(bool eof);
  void PushLine(std::string data, bool eof);
  void AddToLine(uint8_t c);
  void Echo(uint8_t c);
  // Echo of a character that came, which ends what ECHOPRT prints of those that went.
  void EchoTyped(uint8_t c);
  void PrintErased(std::string_view erased);
  void FinishErasing();
  // One byte through output processing.
  void Put(uint8_t c);
  void PutRaw(std::string_view bytes);
  // The columns that the last character of the line takes on the screen.
  size_t WidthOfLast() const;

  Termios termios_ = Termios::Default();
  std::deque<Line> lines_;  // canonical: complete lines
  std::string line_;        // canonical: being edited
  std::string raw_;         // not canonical
  size_t line_bytes_ = 0;   // in lines_
  size_t ends_ = 0;         // of those that an end of file closes: each takes the room of a byte
  std::string output_;
  bool stopped_ = false;
  bool literal_next_ = false;
  bool erasing_ = false;  // ECHOPRT has printed a backslash
  uint32_t column_ = 0;
  uint32_t line_column_ = 0;  // where the line being edited begins on the screen
};

}  // namespace amber
