// Port I/O dispatch. Devices register before VPs run; look-ups then need no lock. Accesses come
// from VP threads and must not block.
#ifndef PARTITA_PARTITION_CHIPSET_PIO_BUS_H_
#define PARTITA_PARTITION_CHIPSET_PIO_BUS_H_

#include <cstdint>
#include <vector>

namespace partita {

class PioDevice {
 public:
  virtual ~PioDevice() = default;
  // `offset` from the registered base; byte accesses only (wider ones are split).
  virtual uint8_t Read(uint16_t offset) = 0;
  virtual void Write(uint16_t offset, uint8_t value) = 0;
};

class PioBus {
 public:
  void Register(uint16_t base, uint16_t count, PioDevice* device) {
    ranges_.push_back({base, count, device});
  }
  // Unclaimed ports read all ones.
  void Read(uint16_t port, uint8_t* data, unsigned size) const {
    for (unsigned i = 0; i < size; ++i) {
      const Range* range = Find(static_cast<uint16_t>(port + i));
      data[i] = range == nullptr
                    ? uint8_t{0xFF}
                    : range->device->Read(static_cast<uint16_t>(port + i - range->base));
    }
  }
  void Write(uint16_t port, const uint8_t* data, unsigned size) const {
    for (unsigned i = 0; i < size; ++i) {
      if (const Range* range = Find(static_cast<uint16_t>(port + i))) {
        range->device->Write(static_cast<uint16_t>(port + i - range->base), data[i]);
      }
    }
  }

 private:
  struct Range {
    uint16_t base, count;
    PioDevice* device;
  };
  [[nodiscard]] const Range* Find(uint16_t port) const {
    for (const Range& range : ranges_) {
      if (port >= range.base && port - range.base < range.count) return &range;
    }
    return nullptr;
  }
  std::vector<Range> ranges_;
};

}  // namespace partita

#endif  // PARTITA_PARTITION_CHIPSET_PIO_BUS_H_
