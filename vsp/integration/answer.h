// What the integration services share besides their channel: bytes of a body, and an answer in
// words.
#ifndef PARTITA_VSP_INTEGRATION_ANSWER_H_
#define PARTITA_VSP_INTEGRATION_ANSWER_H_

#include <cstdio>
#include <string>
#include <vector>

#include "vsp/integration/integration_service.h"

namespace partita::integration {

template <typename T>
std::vector<std::byte> BytesOf(const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}

inline absl::Status StatusOf(const IntegrationService::Answer& answer, const char* refused) {
  if (!answer.status.ok()) return answer.status;
  if (answer.guest_status == vmbus::integration::kStatusOk) return absl::OkStatus();
  char number[16];
  snprintf(number, sizeof(number), "%#x", answer.guest_status);
  return FailedPrecondition(std::string(refused) + " (" + number + ")");
}

}  // namespace partita::integration

#endif  // PARTITA_VSP_INTEGRATION_ANSWER_H_
