// "Did you mean ...?"
#ifndef PARTITA_TOOLS_CONTROL_NEAREST_H_
#define PARTITA_TOOLS_CONTROL_NEAREST_H_

#include <string>
#include <vector>

namespace partita {

// The one of `known` that is nearest to what was typed (edit distance); empty if nothing is near.
std::string Nearest(const std::string& typed, const std::vector<std::string>& known);

}  // namespace partita

#endif  // PARTITA_TOOLS_CONTROL_NEAREST_H_
