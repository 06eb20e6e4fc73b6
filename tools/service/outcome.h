// What was asked for, or why it is not given.
#ifndef PARTITA_TOOLS_SERVICE_OUTCOME_H_
#define PARTITA_TOOLS_SERVICE_OUTCOME_H_

#include <utility>
#include <variant>

#include "tools/service/api_error.h"

namespace partita::service {

template <typename T>
class [[nodiscard]] Outcome {
 public:
  Outcome(T value) : held_(std::move(value)) {}         // NOLINT: as StatusOr
  Outcome(ApiError error) : held_(std::move(error)) {}  // NOLINT
  [[nodiscard]] bool ok() const { return std::holds_alternative<T>(held_); }
  T& operator*() { return std::get<T>(held_); }
  T* operator->() { return &std::get<T>(held_); }
  [[nodiscard]] const ApiError& error() const { return std::get<ApiError>(held_); }

 private:
  std::variant<T, ApiError> held_;
};

}  // namespace partita::service

#endif  // PARTITA_TOOLS_SERVICE_OUTCOME_H_
