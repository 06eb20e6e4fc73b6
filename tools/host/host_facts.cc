#include "tools/host/host_facts.h"

#include <fstream>

namespace partita {

std::string ReadLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string HostClock() {
  return ReadLine("/sys/devices/system/clocksource/clocksource0/current_clocksource");
}

bool HostClockIsTsc() { return HostClock() == "tsc"; }

bool HostVirtualizesApic() {
  for (const char* parameter : {"kvm_intel/parameters/enable_apicv", "kvm_amd/parameters/avic"}) {
    const std::string value = ReadLine(std::string("/sys/module/") + parameter);
    if (!value.empty()) return value != "N" && value != "0";
  }
  return true;
}

}  // namespace partita
