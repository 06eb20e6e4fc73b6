// Connects the serial port to the console descriptor the worker was given, or to visitors who come
// and go. Control thread only. A console that does not read never blocks a VP: the serial port
// drops and counts; a visitor who does not read is shown out.
#ifndef PARTITA_TOOLS_WORKER_CONSOLE_H_
#define PARTITA_TOOLS_WORKER_CONSOLE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "partition/chipset/serial.h"

namespace partita {

class Console {
 public:
  // A stream (socket, pty, file); a listening socket, whose newest visitor has the console; or no
  // descriptor, and any number of visitors by AddVisitor.
  enum class Kind : uint8_t { kStream, kListen, kHub };
  static constexpr size_t kKept = 64 << 10;  // of output, for visitors who come later
  static constexpr size_t kMaxVisitors = 16;
  static constexpr size_t kMaxBehind = 256 << 10;  // a visitor farther behind than this is let go

  Console(EventLoop& loop, UniqueFd fd, Kind kind);
  ~Console();

  // The machine's serial port; null while there is none. Output of the old one is drained first.
  void Attach(SerialPort* serial);
  void OutputReady();
  // Writes what can be written without waiting (before the worker ends).
  void Drain();
  // kHub: what was kept goes there, then what is written; what comes from there is typed, if
  // `writer`. One writer at a time.
  [[nodiscard]] absl::Status MayVisit(bool writer) const;
  absl::Status AddVisitor(UniqueFd socket, bool writer);

 private:
  struct Visitor {
    UniqueFd socket;
    bool writer = false;
    std::string behind;  // output it has not taken yet
  };
  void Watch(int fd);
  void OnEvents(uint32_t events);
  void ReadInput();
  void WriteOutput();
  void CloseStream();
  // kHub
  void Publish(std::string_view text);
  void OnVisitor(int fd, uint32_t events);
  // False: the visitor is gone, or has to go.
  static bool Flush(Visitor& visitor);
  bool ReadVisitor(Visitor& visitor);
  void ShowOut(int fd);

  EventLoop& loop_;
  const Kind kind_;
  UniqueFd listener_;
  UniqueFd stream_;
  SerialPort* serial_ = nullptr;
  bool regular_file_ = false;
  bool watched_ = false;
  std::string kept_;
  std::map<int, Visitor> visitors_;
};

}  // namespace partita

#endif  // PARTITA_TOOLS_WORKER_CONSOLE_H_
