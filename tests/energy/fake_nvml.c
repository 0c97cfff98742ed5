/* A driver's library with one GPU, whose counter grows by 5 joules each time it is read; see test_counters.py. */
#include <string.h>

static int began;
static unsigned long long millijoules;

int nvmlInit_v2(void) { began = 1; return 0; }

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    if (!began || strcmp(uuid, "GPU-7") != 0) return 6; /* not found */
    *device = &millijoules;
    return 0;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy) {
    if (device != &millijoules) return 2; /* invalid argument */
    millijoules += 5000;
    *energy = millijoules;
    return 0;
}
