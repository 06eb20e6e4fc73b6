// Decompressors of one shape, fed and emptied piece by piece.
#ifndef PARTITA_TOOLS_HOST_STREAM_DECODER_H_
#define PARTITA_TOOLS_HOST_STREAM_DECODER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace partita {

class StreamDecoder {
 public:
  enum class State : uint8_t { kMore, kEnd, kDamaged };
  struct Progress {
    State state = State::kMore;
    size_t consumed = 0, produced = 0;
  };
  virtual ~StreamDecoder() = default;
  // Takes from `in`, puts into `out`, as much as fits. `last`: nothing follows `in`.
  virtual Progress Step(std::span<const uint8_t> in, bool last, std::span<uint8_t> out) = 0;

  // The one that the first bytes ask for; null if none does, or if it cannot be made.
  static constexpr size_t kMagic = 6;
  static std::unique_ptr<StreamDecoder> For(std::span<const uint8_t> magic);
};

}  // namespace partita

#endif  // PARTITA_TOOLS_HOST_STREAM_DECODER_H_
