// A management service for tests of its clients: speaks the service's API over a Unix socket, with
// two machines and fixed figures, and no machine behind them. Requests are kept for a
// test to look at. Its own threads answer; every member may be called from any thread.
#ifndef PARTITA_TESTS_FAKES_FAKE_SERVICE_H_
#define PARTITA_TESTS_FAKES_FAKE_SERVICE_H_

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace partita {

class FakeService {
 public:
  // Listens at `socket`; fails the program if it cannot.
  explicit FakeService(const std::string& socket);
  ~FakeService();
  FakeService(const FakeService&) = delete;
  FakeService& operator=(const FakeService&) = delete;

  // web1 (running) and web2 (off), as in the beginning.
  void Reset();
  // `count` more machines, all off: vm000, vm001 ...
  void AddMachines(int count);
  // Operations begin and do not end until this is false again.
  void HoldOperations(bool held);
  // Every request is answered with this error from now on; null for none.
  void FailWith(int status, nlohmann::json error);
  // "GET /v1/vms", in order.
  std::vector<std::string> requests() const;
  nlohmann::json machine(const std::string& name) const;
  // What was typed on consoles.
  std::string typed() const;

 private:
  friend struct FakeServiceCallbacks;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace partita

#endif  // PARTITA_TESTS_FAKES_FAKE_SERVICE_H_
