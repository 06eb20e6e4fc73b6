// Durability where it is decided: a real loop device whose backing file lies on a file system that
// fills up. What the kernel says about a failed write-back, and to whom, no fake can show.
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#include <cstdlib>

#include "vsp/storage/storage_test_base.h"

namespace partita::storage {
namespace {

constexpr uint64_t kLoopSize = 32 << 20;

// A loop device of kLoopSize on a tmpfs of 4 MiB, both gone when this is.
class LoopDevice {
 public:
  // Why there is none; empty when there is.
  std::string Open(uint32_t block_size) {
    if (geteuid() != 0) return "needs root";
    if (unshare(CLONE_NEWNS) != 0) return "needs a mount namespace";
    if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return "mounts are shared";
    char name[] = "/tmp/partita-loop-XXXXXX";
    if (mkdtemp(name) == nullptr) return "no folder";
    folder_ = name;
    if (mount("none", name, "tmpfs", 0, "size=4m") != 0) return "cannot mount a tmpfs";
    mounted_ = true;
    const UniqueFd backing(open((folder_ + "/disk").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!backing.valid() || ftruncate(backing.get(), kLoopSize) != 0) return "no backing file";
    const UniqueFd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    if (!control.valid()) return "no /dev/loop-control";
    for (int attempt = 0; attempt < 10; ++attempt) {  // others take devices too
      const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
      if (number < 0) return "no free loop device";
      path_ = "/dev/loop" + std::to_string(number);
      UniqueFd fd(open(path_.c_str(), O_RDWR | O_CLOEXEC));
      if (!fd.valid()) return "cannot open " + path_;
      loop_config config{};
      config.fd = static_cast<uint32_t>(backing.get());
      config.block_size = block_size;
      config.info.lo_flags = LO_FLAGS_AUTOCLEAR;  // goes with its last descriptor
      if (ioctl(fd.get(), LOOP_CONFIGURE, &config) == 0) {
        device_ = std::move(fd);
        return "";
      }
    }
    return "cannot configure a loop device";
  }
  ~LoopDevice() {
    device_.Reset();
    if (mounted_) umount2(folder_.c_str(), MNT_DETACH);
    if (!folder_.empty()) rmdir(folder_.c_str());
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string folder_, path_;
  UniqueFd device_;
  bool mounted_ = false;
};

class FullLoopTest : public StorageTest {
 protected:
  void SetUp() override {
    if (const std::string why = device.Open(512); !why.empty()) GTEST_SKIP() << why;
    Build(1);
    ASSERT_EQ(driver->Initialize(), Result::kOk);
    ASSERT_EQ(driver->RequestSubChannels(1), Result::kOk);
    OpenChannel(second, 1);
    data = partition.Allocate(128 << 10);
    std::memset(data, 0x5A, 128 << 10);
  }
  std::unique_ptr<BlockBackend> MakeBackend() override {
    auto raw = RawFile::Create(UniqueFd(open(device.path().c_str(), O_RDWR | O_CLOEXEC)), {});
    EXPECT_TRUE(raw.ok()) << raw.status();
    return raw.ok() ? *std::move(raw) : nullptr;
  }
  // 8 MiB into the page cache, twice what the file system holds.
  void FillCache() {
    for (uint64_t i = 0; i < 64; ++i) {
      ASSERT_EQ(driver->SubmitReadWrite(primary, 0, true, i * 256, 256, data, 128 << 10, i + 1),
                Result::kOk);
    }
    primary.Commit();
    for (const Completion& c : Collect(primary, 64)) ASSERT_TRUE(c.ok);
  }
  bool Submit(vmbus::client::Channel& channel, std::array<uint8_t, 16> cdb, uint32_t length,
              uint64_t tag) {
    const bool sent = driver->Submit(channel, 0, cdb, data, length, false, tag) == Result::kOk;
    channel.Commit();
    return sent;
  }
  static constexpr std::array<uint8_t, 16> kFlush = {0x35};
  static constexpr std::array<uint8_t, 16> kFuaWrite = {0x2A, 8, 0, 0, 0, 0, 0, 0, 8};
  LoopDevice
      device;  // after the fixture's own members, so it goes first; the backend has its own fd
  vmbus::client::Channel second;
  std::byte* data = nullptr;
};

// A failed FUA write has seen the error that a later flush, on another channel, would be told.
TEST_F(FullLoopTest, AFailedFuaWriteLeavesNoFlushASuccess) {
  FillCache();
  ASSERT_TRUE(Submit(primary, kFuaWrite, 4096, 100));
  EXPECT_FALSE(Collect(primary, 1).at(0).ok) << "it was not durable, and it must not wait for ever";
  ASSERT_TRUE(Submit(second, kFlush, 0, 101));
  EXPECT_FALSE(Collect(second, 1).at(0).ok);
  EXPECT_TRUE(storage->any_poisoned());
  EXPECT_EQ(full_events.load(), 0);
}

// Flushes at once, on one channel and on two: the kernel tells one of them, we tell all.
TEST_F(FullLoopTest, AllFlushesAtOnceFail) {
  FillCache();
  for (uint64_t i = 0; i < 4; ++i) {
    ASSERT_TRUE(Submit(primary, kFlush, 0, 100 + i));
    ASSERT_TRUE(Submit(second, kFlush, 0, 200 + i));
  }
  for (auto* channel : {&primary, &second}) {
    for (const Completion& c : Collect(*channel, 4)) EXPECT_FALSE(c.ok) << c.tag;
  }
  ASSERT_EQ(second.Close(connection), Result::kOk);
  ASSERT_EQ(primary.Close(connection), Result::kOk);
  EXPECT_FALSE(storage->Sync().ok()) << "the flush at the end";
}

TEST(LoopAlignment, DirectIoSaysWhatSectorsItNeeds) {
  LoopDevice device;
  if (const std::string why = device.Open(4096); !why.empty()) GTEST_SKIP() << why;
  const auto open_direct = [&] {
    return UniqueFd(open(device.path().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  };
  const auto refused = RawFile::Create(open_direct(), {.direct = true, .logical_block = 512});
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(std::string(refused.status().message()).find("logical=4096"), std::string::npos)
      << refused.status();
  EXPECT_TRUE(RawFile::Create(open_direct(), {.direct = true, .logical_block = 4096}).ok());
}

}  // namespace
}  // namespace partita::storage
