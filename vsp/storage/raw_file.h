// A raw file or block device behind an open descriptor.
#ifndef PARTITA_VSP_STORAGE_RAW_FILE_H_
#define PARTITA_VSP_STORAGE_RAW_FILE_H_

#include <memory>
#include <vector>

#include "base/unique_fd.h"
#include "vsp/storage/block_backend.h"
#include "vsp/storage/flush_combiner.h"

namespace partita::storage {

class RawFile : public BlockBackend {
 public:
  struct Options {
    bool read_only = false;
    bool direct = false;  // the descriptor was opened with O_DIRECT
    uint32_t logical_block = 512;
    bool any_size = false;  // the file of an image, which grows: not a guest's disk by itself
  };
  static absl::StatusOr<std::unique_ptr<RawFile>> Create(UniqueFd fd, const Options& options);

  // Gives back the lock the descriptor carries.
  ~RawFile() override;

  [[nodiscard]] const BlockProperties& properties() const override { return properties_; }
  [[nodiscard]] std::vector<int> files() const override { return {fd_.get()}; }
  [[nodiscard]] std::vector<uint8_t> opcodes() const override;
  absl::StatusOr<std::unique_ptr<BlockQueue>> OpenQueue(IoRing& ring, int first_file,
                                                        LoopPoster post) override;
  [[nodiscard]] absl::Status Sync() override;
  void DescribeTo(StatSink& sink) const override;

 private:
  friend class RawFileQueue;
  RawFile(UniqueFd fd, BlockProperties properties, bool direct)
      : fd_(std::move(fd)), properties_(properties), direct_(direct) {}

  UniqueFd fd_;
  BlockProperties properties_;
  bool direct_;
  // Of one loop.
  struct Counters {
    LoopCounter reads, writes, flushes, discards, zeroes, read_bytes, written_bytes,
        short_transfers, bounced, errors;
    void DescribeTo(StatSink& sink) const;
  };
  FlushCombiner flushes_;
  PerLoop<Counters> counters_;
};

}  // namespace partita::storage

#endif  // PARTITA_VSP_STORAGE_RAW_FILE_H_
