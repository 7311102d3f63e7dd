/* Parsing of BOOT, EXEC, ATTACH and POWEROFF. Strict: a frame cut short and filled up with zeros (see SYNC in
 * frames.py) must never be taken for a shorter command, so the last pair must be complete and no key empty. */
#include <stdlib.h>
#include <string.h>

#include "vmctl.h"

static unsigned number(const char *text, unsigned limit)
{
    unsigned long value = strtoul(text, NULL, 10);
    return value > limit ? limit : (unsigned)value;
}

/* Append to a NULL-terminated list that has room. */
static void append(char **list, char *text)
{
    while (*list)
        list++;
    *list = text;
}

static void take_pair(struct spec *spec, const char *key, char *value)
{
    static const struct { const char *key; size_t offset; } texts[] = {
        {"cwd", offsetof(struct spec, cwd)},           {"user", offsetof(struct spec, user)},
        {"hostname", offsetof(struct spec, hostname)}, {"root", offsetof(struct spec, root)},
        {"fstype", offsetof(struct spec, fstype)},     {"entropy", offsetof(struct spec, entropy)},
        {"restart", offsetof(struct spec, restart)},   {"mac", offsetof(struct spec, mac)},
        {"gateway", offsetof(struct spec, gateway)},   {"upper", offsetof(struct spec, upper)},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!strcmp(key, texts[i].key))
            *(char **)((char *)spec + texts[i].offset) = value;
    if (!strcmp(key, "argv"))
        append(spec->argv, value);
    else if (!strcmp(key, "env"))
        append(spec->env, value);
    else if (!strcmp(key, "dns"))
        append(spec->dns, value);
    else if (!strcmp(key, "address")) {
        spec->address = value;
        spec->has_network = true;
    } else if (!strcmp(key, "tty"))
        spec->tty = *value == '1';
    else if (!strcmp(key, "stdin"))
        spec->keep_stdin = *value == '1';
    else if (!strcmp(key, "read_only"))
        spec->read_only = *value == '1';
    else if (!strcmp(key, "rows"))
        spec->rows = number(value, 0xffff);
    else if (!strcmp(key, "cols"))
        spec->columns = number(value, 0xffff);
    else if (!strcmp(key, "restart_max"))
        spec->restart_max = number(value, 1u << 30);
    else if (!strcmp(key, "network_wait"))
        spec->network_wait = number(value, 3600000);
    else if (!strcmp(key, "clock"))
        spec->clock = strtoull(value, NULL, 10);
    else if (!strcmp(key, "timeout"))
        spec->timeout = number(value, 1u << 30);
    else if (!strcmp(key, "signal"))
        spec->signal = number(value, 64);
}

struct spec *spec_parse(char *payload, size_t length)
{
    size_t ends = 0;
    for (size_t i = 0; i < length; i++)
        ends += !payload[i];
    struct spec *spec = calloc(1, sizeof *spec);
    if (!spec) {
        free(payload);
        return NULL;
    }
    spec->payload = payload;
    /* No list can have more members than there are pairs. */
    spec->argv = calloc(ends / 2 + 1, sizeof(char *));
    spec->env = calloc(ends / 2 + 2, sizeof(char *)); /* and HOME */
    spec->dns = calloc(ends / 2 + 1, sizeof(char *));
    bool good = spec->argv && spec->env && spec->dns && ends % 2 == 0 && (!length || !payload[length - 1]);
    for (char *key = payload; good && key < payload + length;) {
        char *value = key + strlen(key) + 1;
        good = *key != 0;
        if (good)
            take_pair(spec, key, value);
        key = value + strlen(value) + 1;
    }
    if (good)
        return spec;
    spec_free(spec);
    return NULL;
}

void spec_free(struct spec *spec)
{
    if (!spec)
        return;
    free(spec->argv);
    free(spec->env);
    free(spec->dns);
    free(spec->payload);
    free(spec);
}
