#include "vmbus/server/gpadl_table.h"

#include <algorithm>
#include <cstring>

namespace partita::vmbus {
namespace {

// What the 16-bit length of a range buffer can describe: its range and so many page numbers.
constexpr size_t kMaxPages = 0x1FFE;
constexpr size_t kRangeHeader = 8, kPageNumber = 8;

size_t PageCount(uint32_t offset, uint32_t bytes) {
  return (size_t{offset} + bytes + kRingPage - 1) / kRingPage;
}

}  // namespace

GpadlTable::Added GpadlTable::Begin(const GpadlHeader& header, std::span<const std::byte> pfns) {
  const Key key = {header.relid, header.gpadl};
  const size_t pages = PageCount(header.byte_offset, header.byte_count);
  const bool valid = header.range_count == 1 && header.byte_count != 0 &&
                     header.byte_offset < kRingPage && pages <= kMaxPages &&
                     header.range_buffer_length == kRangeHeader + kPageNumber * pages &&
                     !entries_.contains(key) && !collecting_.contains(header.gpadl);
  if (!valid) return Added::kInvalid;
  if (entries_.size() >= limits_.gpadls || pages > limits_.pages - pages_) {
    return Added::kOverLimit;
  }
  Entry& entry = entries_[key];
  entry.gpadl = std::make_shared<Gpadl>();
  entry.gpadl->byte_count = header.byte_count;
  entry.gpadl->byte_offset = header.byte_offset;
  entry.gpadl->pfns.reserve(pages);
  entry.expected = pages;
  pages_ += pages;
  collecting_[header.gpadl] = key;
  return Append(key, entry, pfns);
}

GpadlTable::Piece GpadlTable::Continue(uint32_t handle, std::span<const std::byte> pfns) {
  const auto it = collecting_.find(handle);
  if (it == collecting_.end()) return {};
  const Key key = it->second;
  return {key, Append(key, entries_.at(key), pfns)};
}

GpadlTable::Added GpadlTable::Append(const Key& key, Entry& entry,
                                     std::span<const std::byte> pfns) {
  auto& list = entry.gpadl->pfns;
  while (pfns.size() >= kPageNumber && list.size() < entry.expected) {
    uint64_t pfn = 0;
    std::memcpy(&pfn, pfns.data(), sizeof(pfn));
    list.push_back(pfn);
    pfns = pfns.subspan(kPageNumber);
  }
  if (list.size() < entry.expected) return Added::kMore;
  entry.complete = true;
  collecting_.erase(key.handle);
  return Added::kComplete;
}

std::shared_ptr<const Gpadl> GpadlTable::Find(const Key& key) const {
  const auto it = entries_.find(key);
  return it == entries_.end() || !it->second.complete ? nullptr : it->second.gpadl;
}

uint64_t GpadlTable::Lend(const Key& key) {
  const auto it = entries_.find(key);
  if (it == entries_.end() || !it->second.complete || it->second.wanted_back) return 0;
  if (it->second.loan == 0) it->second.loan = ++loans_;
  ++it->second.users;
  return it->second.loan;
}

bool GpadlTable::Return(const Key& key, uint64_t loan) {
  const auto it = entries_.find(key);
  if (it == entries_.end() || loan == 0 || it->second.loan != loan) return false;
  return --it->second.users == 0 && it->second.wanted_back;
}

bool GpadlTable::WantBack(const Key& key, bool ring) {
  Entry& entry = entries_.at(key);
  if (!ring && entry.users == 0) return true;
  entry.wanted_back = true;
  return false;
}

std::vector<GpadlTable::Key> GpadlTable::Due(uint32_t relid) const {
  std::vector<Key> due;
  for (const auto& [key, entry] : entries_) {
    if (key.relid == relid && entry.wanted_back && entry.users == 0) due.push_back(key);
  }
  return due;
}

void GpadlTable::Erase(const Key& key) {
  const auto it = entries_.find(key);
  if (it == entries_.end()) return;
  if (!it->second.complete) collecting_.erase(key.handle);
  pages_ -= it->second.expected;
  entries_.erase(it);
}

void GpadlTable::EraseOf(uint32_t relid) {
  std::vector<Key> keys;
  for (const auto& [key, entry] : entries_) {
    if (key.relid == relid) keys.push_back(key);
  }
  for (const Key& key : keys) Erase(key);
}

void GpadlTable::Clear() {
  entries_.clear();
  collecting_.clear();
  pages_ = 0;
}

std::vector<uint64_t> GpadlTable::SharedPages() const {
  std::vector<uint64_t> pages;
  pages.reserve(pages_);
  for (const auto& [key, entry] : entries_) {
    pages.insert(pages.end(), entry.gpadl->pfns.begin(), entry.gpadl->pfns.end());
  }
  std::sort(pages.begin(), pages.end());
  return pages;
}

}  // namespace partita::vmbus
