#include <algorithm>
#include <exception>

#include "check.h"

// Without arguments all families run. Fails if a named family has no test.
int main(int argc, char** argv) {
  const std::vector<std::string> wanted(argv + 1, argv + argc);
  int passed = 0, failed = 0;
  for (const check::Test& test : check::tests()) {
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), test.family) == wanted.end()) {
      continue;
    }
    const int before = check::failures();
    try {
      test.run();
    } catch (const std::exception& error) {
      check::fail(test.name.c_str(), 0, error.what());
    }
    const bool good = check::failures() == before;
    ++(good ? passed : failed);
    if (!good) std::printf("FAILED %s %s\n", test.family.c_str(), test.name.c_str());
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed > 0 || passed == 0 ? 1 : 0;
}
