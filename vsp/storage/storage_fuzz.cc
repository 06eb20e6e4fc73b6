// CDBs and parameter lists of a hostile guest: every outcome must stay inside the disk.
#include <cstdlib>
#include <cstring>
#include <memory>

#include "vsp/storage/scsi_disk.h"

namespace {

using namespace partita::storage;  // NOLINT(google-build-using-namespace)

class NoBackend : public BlockBackend {
 public:
  [[nodiscard]] const BlockProperties& properties() const override { return properties_; }
  [[nodiscard]] std::vector<int> files() const override { return {}; }
  [[nodiscard]] std::vector<uint8_t> opcodes() const override { return {}; }
  absl::StatusOr<std::unique_ptr<BlockQueue>> OpenQueue(partita::IoRing&, int,
                                                        LoopPoster) override {
    return partita::Unavailable("none");
  }
  [[nodiscard]] absl::Status Sync() override { return absl::OkStatus(); }
  void DescribeTo(partita::StatSink&) const override {}

 private:
  BlockProperties properties_{.size = 12345 * 512, .discard = true};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const ScsiDisk disk(std::make_unique<NoBackend>(), ScsiDisk::Identity{.serial = "f"});
  if (size < 20) return 0;
  std::array<uint8_t, 16> cdb{};
  std::memcpy(cdb.data(), data, cdb.size());
  uint32_t length = 0;
  std::memcpy(&length, data + 16, sizeof(length));
  const uint32_t wanted = ScsiDisk::ParameterLength(cdb, length);
  const size_t have = std::min<size_t>(size - 20, wanted);
  const ScsiOutcome outcome = disk.Execute(cdb, length, std::span(data + 20, have));
  if (outcome.data.size() > 4096) abort();
  for (const BlockRange& range : outcome.ranges) {
    const uint64_t end = 12345 * 512;
    if (range.offset > end || range.length > end - range.offset) abort();
    if (outcome.kind == ScsiOutcome::Kind::kTransfer && range.length > length) abort();
  }
  return 0;
}
