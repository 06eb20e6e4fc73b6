#include "tools/control/channel.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/descriptor_limit.h"
#include "tools/control/control.pb.h"

namespace partita::control {
namespace {

Event ReplyWithPairs(size_t pairs, size_t length) {
  Event event;
  for (size_t i = 0; i < pairs; ++i) {
    Pair* pair = event.mutable_reply()->add_texts();
    pair->set_name("key" + std::to_string(i));
    pair->set_value(std::string(length, 'x'));
  }
  return event;
}

// A guest may have 256 pairs of 2 KiB and more: the list arrives, whatever its length.
TEST(ControlChannel, LongMessagesArrive) {
  auto pair = Channel::CreatePair();
  ASSERT_TRUE(pair.ok());
  for (const size_t length : {size_t{1}, size_t{240}, size_t{256}, size_t{3069}}) {
    const Event sent = ReplyWithPairs(256, length);
    ASSERT_TRUE(pair->first.Send(sent).ok()) << length;
    Event event;
    std::vector<UniqueFd> descriptors;
    ASSERT_TRUE(pair->second.Receive(&event, &descriptors).ok()) << length;
    EXPECT_EQ(event.SerializeAsString(), sent.SerializeAsString());
    EXPECT_TRUE(descriptors.empty());
  }
  EXPECT_TRUE(absl::IsInvalidArgument(pair->first.Send(ReplyWithPairs(1, kMaxMessage))));
}

// 64 VPs and 8 adapters are 512 queues.
TEST(ControlChannel, ManyDescriptorsArriveInOrder) {
  UseAllDescriptors();
  auto pair = Channel::CreatePair();
  ASSERT_TRUE(pair.ok());
  for (const size_t count : {size_t{1}, size_t{250}, size_t{251}, size_t{266}, size_t{600}}) {
    std::vector<UniqueFd> files;
    std::vector<int> raw;
    for (size_t i = 0; i < count; ++i) {
      files.emplace_back(memfd_create("test", MFD_CLOEXEC));
      ASSERT_EQ(ftruncate(files.back().get(), static_cast<off_t>(i)), 0);
      raw.push_back(files.back().get());
    }
    const Event sent = ReplyWithPairs(200, 512);  // the body has a file of its own
    std::thread sender([&] { EXPECT_TRUE(pair->first.Send(sent, raw).ok()); });
    Event event;
    std::vector<UniqueFd> descriptors;
    EXPECT_TRUE(pair->second.Receive(&event, &descriptors).ok()) << count;
    sender.join();
    EXPECT_EQ(event.SerializeAsString(), sent.SerializeAsString());
    ASSERT_EQ(descriptors.size(), count);
    for (size_t i = 0; i < count; ++i) {
      EXPECT_EQ(lseek(descriptors[i].get(), 0, SEEK_END), static_cast<off_t>(i));
    }
  }
  const std::vector<int> too_many(kMaxDescriptors + 1, pair->first.fd());
  EXPECT_TRUE(absl::IsInvalidArgument(pair->first.Send(Event(), too_many)));
}

// The worker ends with a request of ours unread: its last words come first, then the end.
TEST(ControlChannel, LastWordsArriveFromAPeerThatReadNothing) {
  auto pair = Channel::CreatePair();
  ASSERT_TRUE(pair.ok());
  Event last;
  last.mutable_ended()->set_status(7);
  ASSERT_TRUE(pair->second.Send(last).ok());
  ASSERT_TRUE(pair->first.Send(Request()).ok());
  { const Channel gone = std::move(pair->second); }
  Event event;
  const absl::Status status = pair->first.Receive(&event);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(event.ended().status(), 7);
  EXPECT_TRUE(absl::IsUnavailable(pair->first.Receive(&event)));
}

// What is no message is an error of its own; the next one arrives.
TEST(ControlChannel, WhatIsNoMessageHarmsNoOther) {
  auto pair = Channel::CreatePair();
  ASSERT_TRUE(pair.ok());
  const auto raw = [&](const std::string& bytes, int fd) {
    iovec part = {const_cast<char*>(bytes.data()), bytes.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (fd >= 0) {
      header.msg_control = control;
      header.msg_controllen = sizeof(control);
      cmsghdr* rights = CMSG_FIRSTHDR(&header);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
    }
    ASSERT_GT(sendmsg(pair->first.fd(), &header, MSG_NOSIGNAL), 0);
  };
  const UniqueFd unsealed(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(unsealed.get(), 16), 0);
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  const UniqueFd reader(pipe_ends[0]), writer(pipe_ends[1]);
  const std::vector<std::pair<std::string, int>> wrong = {{std::string(kMaxPacket + 1, 'x'), -1},
                                                          {"\xFF\xFF\xFF", -1},
                                                          {"\x02", -1},
                                                          {"\x02", unsealed.get()},
                                                          {"\x02", reader.get()}};
  for (const auto& [bytes, fd] : wrong) {
    raw(bytes, fd);
    Event event;
    EXPECT_TRUE(absl::IsInvalidArgument(pair->second.Receive(&event))) << bytes.substr(0, 3);
    ASSERT_TRUE(pair->first.Send(ReplyWithPairs(1, 1)).ok());
    EXPECT_TRUE(pair->second.Receive(&event).ok());
  }
}

}  // namespace
}  // namespace partita::control
