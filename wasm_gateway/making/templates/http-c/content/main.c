#include "wagi.h"

static void answer(void) {
    say("Content-Type: text/plain\n\n");
    say("Hello from C! ");
    say(variable("REQUEST_METHOD"));
    say(" ");
    say(variable("PATH_INFO"));
    say("\n");
}
