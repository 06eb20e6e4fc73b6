#include "tools/host/stream_decoder.h"

#include <bzlib.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <string_view>
#include <vector>

namespace partita {
namespace {

using State = StreamDecoder::State;

// Of what the libraries take as 32-bit lengths.
unsigned Length(size_t size) { return static_cast<unsigned>(std::min<size_t>(size, INT_MAX)); }

class GzipDecoder : public StreamDecoder {
 public:
  GzipDecoder() : ok_(inflateInit2(&stream_, kGzipOnly + MAX_WBITS) == Z_OK) {}
  ~GzipDecoder() override {
    if (ok_) inflateEnd(&stream_);
  }
  Progress Step(std::span<const uint8_t> in, bool, std::span<uint8_t> out) override {
    if (!ok_) return {State::kDamaged};
    stream_.next_in = const_cast<Bytef*>(in.data());
    stream_.avail_in = Length(in.size());
    stream_.next_out = out.data();
    stream_.avail_out = Length(out.size());
    const int result = inflate(&stream_, Z_NO_FLUSH);
    const State state = result == Z_STREAM_END                    ? State::kEnd
                        : result == Z_OK || result == Z_BUF_ERROR ? State::kMore
                                                                  : State::kDamaged;
    return {state, Length(in.size()) - stream_.avail_in, Length(out.size()) - stream_.avail_out};
  }

 private:
  static constexpr int kGzipOnly = 16;
  z_stream stream_{};
  bool ok_;
};

class Bzip2Decoder : public StreamDecoder {
 public:
  Bzip2Decoder() : ok_(BZ2_bzDecompressInit(&stream_, 0, 0) == BZ_OK) {}
  ~Bzip2Decoder() override {
    if (ok_) BZ2_bzDecompressEnd(&stream_);
  }
  Progress Step(std::span<const uint8_t> in, bool, std::span<uint8_t> out) override {
    if (!ok_) return {State::kDamaged};
    stream_.next_in = const_cast<char*>(reinterpret_cast<const char*>(in.data()));
    stream_.avail_in = Length(in.size());
    stream_.next_out = reinterpret_cast<char*>(out.data());
    stream_.avail_out = Length(out.size());
    const int result = BZ2_bzDecompress(&stream_);
    const State state = result == BZ_STREAM_END ? State::kEnd
                        : result == BZ_OK       ? State::kMore
                                                : State::kDamaged;
    return {state, Length(in.size()) - stream_.avail_in, Length(out.size()) - stream_.avail_out};
  }

 private:
  bz_stream stream_{};
  bool ok_;
};

class XzDecoder : public StreamDecoder {
 public:
  XzDecoder() : ok_(lzma_stream_decoder(&stream_, kMemoryLimit, 0) == LZMA_OK) {}
  ~XzDecoder() override { lzma_end(&stream_); }
  Progress Step(std::span<const uint8_t> in, bool last, std::span<uint8_t> out) override {
    if (!ok_) return {State::kDamaged};
    stream_.next_in = in.data();
    stream_.avail_in = in.size();
    stream_.next_out = out.data();
    stream_.avail_out = out.size();
    const lzma_ret result = lzma_code(&stream_, last ? LZMA_FINISH : LZMA_RUN);
    const State state = result == LZMA_STREAM_END                       ? State::kEnd
                        : result == LZMA_OK || result == LZMA_BUF_ERROR ? State::kMore
                                                                        : State::kDamaged;
    return {state, in.size() - stream_.avail_in, out.size() - stream_.avail_out};
  }

 private:
  static constexpr uint64_t kMemoryLimit = 256 << 20;  // kernels use dictionaries up to 128 MiB
  lzma_stream stream_ = LZMA_STREAM_INIT;
  bool ok_;
};

class ZstdDecoder : public StreamDecoder {
 public:
  Progress Step(std::span<const uint8_t> in, bool, std::span<uint8_t> out) override {
    if (context_ == nullptr) return {State::kDamaged};
    ZSTD_inBuffer input = {in.data(), in.size(), 0};
    ZSTD_outBuffer output = {out.data(), out.size(), 0};
    // A window above 128 MiB is refused: ZSTD_WINDOWLOG_LIMIT_DEFAULT.
    const size_t result = ZSTD_decompressStream(context_.get(), &output, &input);
    const State state = ZSTD_isError(result) != 0 ? State::kDamaged
                        : result == 0             ? State::kEnd
                                                  : State::kMore;
    return {state, input.pos, output.pos};
  }

 private:
  struct Free {
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };
  std::unique_ptr<ZSTD_DCtx, Free> context_{ZSTD_createDCtx()};
};

// "Legacy" framing: a magic, then blocks of {compressed size, data} of 8 MiB each when unpacked. It
// has no end mark: the payload ends with the input, or with the word that tells the whole size.
class Lz4Decoder : public StreamDecoder {
 public:
  Progress Step(std::span<const uint8_t> in, bool last, std::span<uint8_t> out) override {
    Progress progress;
    while (true) {
      const size_t ready = std::min(block_.size() - shown_, out.size() - progress.produced);
      std::copy_n(block_.begin() + static_cast<ptrdiff_t>(shown_), ready,
                  out.begin() + static_cast<ptrdiff_t>(progress.produced));
      shown_ += ready;
      progress.produced += ready;
      if (shown_ < block_.size()) return progress;
      const size_t wanted = packed_.size() < kWord ? kWord : kWord + BlockSize();
      if (packed_.size() < wanted) {
        const size_t take = std::min(wanted - packed_.size(), in.size() - progress.consumed);
        const auto from = in.begin() + static_cast<ptrdiff_t>(progress.consumed);
        packed_.insert(packed_.end(), from, from + static_cast<ptrdiff_t>(take));
        progress.consumed += take;
        if (packed_.size() < wanted) {
          // Between two blocks is a proper end; the size word may have been taken for a block's.
          if (last && (packed_.empty() || packed_.size() == kWord)) progress.state = State::kEnd;
          return progress;
        }
      }
      if (magic_) {
        magic_ = false;
        packed_.clear();
        continue;
      }
      if (BlockSize() == 0 || BlockSize() > static_cast<size_t>(LZ4_compressBound(kBlock))) {
        // At the very end this is the size word.
        const bool end = last && progress.consumed == in.size() && packed_.size() == kWord;
        progress.state = end ? State::kEnd : State::kDamaged;
        return progress;
      }
      if (packed_.size() == kWord) continue;
      if (!Unpack()) {
        progress.state = State::kDamaged;
        return progress;
      }
    }
  }

 private:
  static constexpr size_t kWord = 4;
  static constexpr int kBlock = 8 << 20;

  [[nodiscard]] size_t BlockSize() const {
    if (magic_) return 0;
    uint32_t size = 0;
    std::memcpy(&size, packed_.data(), kWord);
    return std::min<size_t>(size, size_t{kBlock} * 2);
  }
  bool Unpack() {
    block_.resize(kBlock);
    const int got = LZ4_decompress_safe(reinterpret_cast<const char*>(packed_.data() + kWord),
                                        reinterpret_cast<char*>(block_.data()),
                                        static_cast<int>(packed_.size() - kWord), kBlock);
    packed_.clear();
    block_.resize(static_cast<size_t>(std::max(got, 0)));
    shown_ = 0;
    return got > 0;
  }

  bool magic_ = true;
  std::vector<uint8_t> packed_, block_;
  size_t shown_ = 0;
};

}  // namespace

std::unique_ptr<StreamDecoder> StreamDecoder::For(std::span<const uint8_t> magic) {
  const std::string_view text(reinterpret_cast<const char*>(magic.data()), magic.size());
  if (text.starts_with("\x1F\x8B")) return std::make_unique<GzipDecoder>();
  if (text.starts_with("BZh")) return std::make_unique<Bzip2Decoder>();
  if (text.starts_with("\xFD"
                       "7zXZ")) {
    return std::make_unique<XzDecoder>();
  }
  if (text.starts_with("\x02\x21\x4C\x18")) return std::make_unique<Lz4Decoder>();
  if (text.starts_with("\x28\xB5\x2F\xFD")) return std::make_unique<ZstdDecoder>();
  return nullptr;
}

}  // namespace partita
