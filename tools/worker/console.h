// Connects the serial port to the console descriptor the worker was given. Control thread only. A
// console that does not read never blocks a VP: the serial port drops and counts.
#ifndef PARTITA_TOOLS_WORKER_CONSOLE_H_
#define PARTITA_TOOLS_WORKER_CONSOLE_H_

#include <functional>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "partition/chipset/serial.h"

namespace partita {

class Console {
 public:
  // `fd`: a stream (socket, pty, file), or a listening socket if `listening`; may be invalid.
  Console(EventLoop& loop, UniqueFd fd, bool listening);
  ~Console();

  // The machine's serial port; null while there is none. Output of the old one is drained first.
  void Attach(SerialPort* serial);
  void OutputReady();
  // Writes what can be written without waiting (before the worker ends).
  void Drain();

 private:
  void Watch(int fd);
  void OnEvents(uint32_t events);
  void ReadInput();
  void WriteOutput();
  void CloseStream();

  EventLoop& loop_;
  UniqueFd listener_;
  UniqueFd stream_;
  SerialPort* serial_ = nullptr;
  bool regular_file_ = false;
  bool watched_ = false;
};

}  // namespace partita

#endif  // PARTITA_TOOLS_WORKER_CONSOLE_H_
