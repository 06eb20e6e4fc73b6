#include "vsp/integration/keyboard.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <optional>
#include <vector>

namespace partita::integration {
namespace {

// Messages; source: Linux, drivers/input/serio/hyperv-keyboard.c.
enum MessageType : uint32_t { kProtocolRequest = 1, kProtocolResponse = 2, kEvent = 3, kLeds = 4 };
struct VersionMessage {
  uint32_t type, value;
};
struct EventMessage {
  uint32_t type;
  uint16_t make_code, reserved;
  uint32_t flags;
};
static_assert(sizeof(VersionMessage) == 8 && sizeof(EventMessage) == 12);
constexpr uint32_t kVersion1_0 = 0x00010000;
constexpr uint32_t kAccepted = 1;
constexpr uint32_t kBreak = 2, kExtended = 4;

constexpr uint16_t kShift = 0x2A;
constexpr size_t kMaxText = 256;

// Characters of the keys from scan code 2 on, without and with shift (PC/AT keyboard, US layout);
// 0: no character.
constexpr char kPlain[] = "1234567890-=\b\tqwertyuiop[]\n\0asdfghjkl;'`\0\\zxcvbnm,./\0\0\0 ";
constexpr char kShifted[] = "!@#$%^&*()_+\0\0QWERTYUIOP{}\0\0ASDFGHJKL:\"~\0|ZXCVBNM<>?\0\0\0\0";
static_assert(sizeof(kPlain) == sizeof(kShifted));
constexpr uint16_t kFirstCode = 2;

struct Named {
  const char* name;
  uint16_t code;
  bool extended;
};
constexpr std::array<Named, 27> kNamed = {{
    {"esc", 0x01, false},   {"ctrl", 0x1D, false},      {"shift", 0x2A, false},
    {"alt", 0x38, false},   {"enter", 0x1C, false},     {"tab", 0x0F, false},
    {"space", 0x39, false}, {"backspace", 0x0E, false}, {"del", 0x53, true},
    {"home", 0x47, true},   {"end", 0x4F, true},        {"up", 0x48, true},
    {"down", 0x50, true},   {"left", 0x4B, true},       {"right", 0x4D, true},
    {"f1", 0x3B, false},    {"f2", 0x3C, false},        {"f3", 0x3D, false},
    {"f4", 0x3E, false},    {"f5", 0x3F, false},        {"f6", 0x40, false},
    {"f7", 0x41, false},    {"f8", 0x42, false},        {"f9", 0x43, false},
    {"f10", 0x44, false},   {"f11", 0x57, false},       {"f12", 0x58, false},
}};

// Scan code of a character, and whether shift is held.
struct Character {
  uint16_t code;
  bool shift;
};
std::optional<Character> CodeOf(char c) {
  if (c == 0) return std::nullopt;
  for (size_t i = 0; i + 1 < sizeof(kPlain); ++i) {
    if (kPlain[i] == c) return Character{static_cast<uint16_t>(kFirstCode + i), false};
    if (kShifted[i] == c) return Character{static_cast<uint16_t>(kFirstCode + i), true};
  }
  return std::nullopt;
}

}  // namespace

Keyboard::Keyboard(EventLoop& loop)
    : MessageChannel(loop, "keyboard", vmbus::kKeyboardClass,
                     vmbus::ParseGuid("d34b2567-b9b6-42b9-8778-0a4ec0b955bf")) {}

void Keyboard::OnPacket(const vmbus::Packet& packet) {
  VersionMessage message{};
  if (packet.descriptor.type != vmbus::kPacketInBand || packet.payload.size() < sizeof(message)) {
    return rejected_.Add();
  }
  std::memcpy(&message, packet.payload.data(), sizeof(message));
  if (message.type == kLeds) return;
  if (message.type != kProtocolRequest) return rejected_.Add();
  const bool known = message.value == kVersion1_0;
  const VersionMessage answer = {kProtocolResponse, known ? kAccepted : 0};
  ready_ = SendPacket(std::as_bytes(std::span(&answer, 1))) && known;
}

bool Keyboard::Send(Key key, bool release) {
  const EventMessage event = {kEvent, key.code, 0,
                              (release ? kBreak : 0) | (key.extended ? kExtended : 0)};
  if (!SendPacket(std::as_bytes(std::span(&event, 1)))) {
    no_room_.Add();
    return false;
  }
  events_.Add();
  return true;
}

absl::Status Keyboard::Type(std::string_view text) {
  if (!ready_) return Unavailable("the guest has no driver for the keyboard, or not yet");
  if (text.size() > kMaxText) return InvalidArgument("at most 256 characters at a time");
  std::vector<Character> keys;
  for (const char c : text) {
    const auto key = CodeOf(c);
    if (!key) return InvalidArgument("a character that a US keyboard does not have");
    keys.push_back(*key);
  }
  bool sent = true;
  for (const Character& key : keys) {
    if (key.shift) sent = sent && Send({kShift, false}, false);
    sent = sent && Send({key.code, false}, false) && Send({key.code, false}, true);
    // Never leave a key down.
    if (key.shift) sent = Send({kShift, false}, true) && sent;
  }
  return sent ? absl::OkStatus() : Unavailable("the guest does not read its keyboard");
}

absl::Status Keyboard::Chord(std::string_view names) {
  if (!ready_) return Unavailable("the guest has no driver for the keyboard, or not yet");
  std::vector<Key> keys;
  for (size_t at = 0; at <= names.size();) {
    const size_t end = std::min(names.find('+', at), names.size());
    std::string name(names.substr(at, end - at));
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    at = end + 1;
    const auto* found =
        std::find_if(kNamed.begin(), kNamed.end(), [&](const Named& n) { return name == n.name; });
    if (found != kNamed.end()) {
      keys.push_back({found->code, found->extended});
    } else if (const auto key = name.size() == 1 ? CodeOf(name[0]) : std::nullopt; key) {
      keys.push_back({key->code, false});
    } else {
      return InvalidArgument("there is no key '" + name + "'");
    }
  }
  bool sent = true;
  for (const Key& key : keys) sent = sent && Send(key, false);
  for (size_t i = keys.size(); i-- > 0;) sent = Send(keys[i], true) && sent;
  return sent ? absl::OkStatus() : Unavailable("the guest does not read its keyboard");
}

void Keyboard::DescribeTo(StatSink& sink) const {
  sink.Add("keyboard.events", events_);
  sink.Add("keyboard.rejected", rejected_);
  sink.Add("keyboard.no_room", no_room_);
}

}  // namespace partita::integration
