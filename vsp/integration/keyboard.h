// The synthetic keyboard (Linux: hyperv-keyboard, which hands PC/AT set 1 scan codes to atkbd).
// Control thread only.
#ifndef PARTITA_VSP_INTEGRATION_KEYBOARD_H_
#define PARTITA_VSP_INTEGRATION_KEYBOARD_H_

#include <string>
#include <string_view>

#include "vsp/integration/message_channel.h"

namespace partita::integration {

class Keyboard : public MessageChannel {
 public:
  explicit Keyboard(EventLoop& loop);
  [[nodiscard]] bool ready() const { return ready_; }
  // Presses and releases the keys of a US keyboard that write this text; line feed is Enter, tab
  // and backspace are themselves. Nothing is pressed if a character has no key.
  absl::Status Type(std::string_view text);
  // Keys held together, by name: "ctrl+alt+del", "shift+f10", "a".
  absl::Status Chord(std::string_view names);
  void DescribeTo(StatSink& sink) const;

 protected:
  void OnClosed() override { ready_ = false; }
  void OnPacket(const vmbus::Packet& packet) override;

 private:
  struct Key {
    uint16_t code = 0;  // of set 1
    bool extended = false;
  };
  bool Send(Key key, bool release);
  bool ready_ = false;
  Counter events_, rejected_, no_room_;
};

}  // namespace partita::integration

#endif  // PARTITA_VSP_INTEGRATION_KEYBOARD_H_
