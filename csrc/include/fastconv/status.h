// Errors. The core throws these two and nothing else; bindings/module.cpp turns them into Python exceptions.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace fastconv {

// The caller's fault: the message names the argument, what it was and what was expected. A RuntimeError in Python,
// because that is what torch.nn.functional raises for a bad shape.
struct InvalidArgument : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A kernel could not be launched, or failed: the message names the kernel and its launch configuration.
struct LaunchError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

template <class... Parts>
void require(bool holds, const Parts&... message) {
  if (!holds) throw InvalidArgument(concat(message...));
}

}  // namespace fastconv
