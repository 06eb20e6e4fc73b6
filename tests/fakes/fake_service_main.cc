// fake-partitad SOCKET: the service without machines as a program, for tests of the shell as a
// person sees it. Ends with its standard input.
#include <unistd.h>

#include <cstdio>

#include "tests/fakes/fake_service.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: fake-partitad SOCKET\n");
    return 2;
  }
  const partita::FakeService service(argv[1]);
  puts("ready");
  fflush(stdout);
  char c = 0;
  while (read(STDIN_FILENO, &c, 1) > 0) {
  }
  return 0;
}
