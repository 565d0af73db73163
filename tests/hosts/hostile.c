/* Lies about the VM of the program that has loaded it, for the tests, and burns CPU: `lie` is called from Lua and does not
 * return, so that the VM never meets its own structures again. A profiler does.
 *
 * Offsets are those of LuaJIT's GC64 builds, which for these structures have not changed from 2021 to 2023.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct thread {
    char head[16];
    uint64_t global, gclist;
    uint64_t base, top, maxstack, stack;
    char more[16];
    uint64_t cframe;
};

#define FUNCTION(address) ((uint64_t)(address) | ~(uint64_t)8 << 47)
/* Types of frame links. */
enum { LINK_VARARG = 3, LINK_PCALL = 6 };
enum { FRAMES = 600, PROTOTYPES = 8192, PAGE = 4096, HUGE_PROTOTYPE = 4 << 20 };

/* About a millisecond. For all that the compiler knows, it looks at everything. */
static __attribute__((noipa)) void burn(void)
{
    volatile int i;
    for (i = 0; i < 500000; i++)
        ;
}

static char *memory(size_t size)
{
    void *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
        abort();
    return start;
}

static void put(char *object, int offset, uint64_t value, int size)
{
    memcpy(object + offset, &value, size);
}

/* Addresses that lead nowhere: null, unaligned, the guard page, the end of user space, no address at all, the kernel. */
static const uint64_t nowhere[] = {
    0, 8, 0x1001, 0x7ffffffff000, 0x7fffffffffff, 0x1000000000000, 0xffff800000000000, 0xfffffffffffffff8,
};
enum { NOWHERE = sizeof nowhere / sizeof *nowhere };

/* Links to themselves, upward, out of the stack, and from instructions that are not there. */
static void links(struct thread *thread)
{
    static const uint64_t links[] = {
        LINK_VARARG, LINK_PCALL, 0, 4, 16 << 3 | LINK_VARARG, (uint64_t)-16 | LINK_PCALL,
        1 << 30 | LINK_PCALL, (uint64_t)1 << 46 | LINK_VARARG, 0x7ffffffff000, 0xffff800000000000,
    };
    uint64_t *base = (uint64_t *)thread->base;
    unsigned i;
    for (i = 0;; i++) {
        base[-1] = links[i % (sizeof links / sizeof *links)];
        burn();
    }
}

/* What should be addresses leads nowhere: the function, the stack, the base, the stack's end, one after the other. */
static void pointers(struct thread *thread)
{
    struct thread truth = *thread;
    uint64_t *function = (uint64_t *)thread->base - 2, was = *function;
    unsigned i;
    for (i = 0;; i++) {
        uint64_t lie = nowhere[i / 4 % NOWHERE];
        switch (i % 4) {
        case 0: *function = FUNCTION(lie & 0x7fffffffffff); break;
        case 1: thread->stack = lie; break;
        case 2: thread->base = lie; break;
        case 3: thread->maxstack = lie; break;
        }
        burn();
        *thread = truth;
        *function = was;
    }
}

/* The chain of C frames leads nowhere, or back to itself. */
static void cframes(struct thread *thread)
{
    uint64_t truth = thread->cframe, *previous = (uint64_t *)((truth & ~(uint64_t)3) + 32), was = *previous;
    unsigned i;
    for (i = 0;; i++) {
        thread->cframe = nowhere[i % NOWHERE];
        burn();
        thread->cframe = truth;
        *previous = nowhere[i % NOWHERE];
        burn();
        *previous = truth;
        burn();
        *previous = was;
    }
}

/* A Lua stack of 64 MiB, far larger than there can be, of the smallest frames. */
static void stack(struct thread *thread)
{
    size_t size = 64 << 20, i;
    uint64_t *words = (uint64_t *)memory(size);
    for (i = 0; i < size / 8; i += 2) {
        words[i] = FUNCTION(&nowhere);
        words[i + 1] = 16 | LINK_PCALL;
    }
    thread->stack = (uint64_t)words;
    thread->base = thread->top = thread->maxstack = (uint64_t)words + size - 64;
    for (;;)
        burn();
}

/* Frames of ever other functions, each of a prototype of 4 MiB with a name of 64 KiB or, so it says, of 4 GiB. */
static void prototypes(struct thread *thread)
{
    char *all = memory((size_t)PROTOTYPES * PAGE + HUGE_PROTOTYPE), *name = memory(2 * 65536);
    uint64_t *words = (uint64_t *)memory(1 << 20);
    unsigned i, first;
    name[9] = 4;
    put(name, 20, 0xffffffff, 4);
    memset(name + 24, 'n', 65536);
    name[24] = '@';
    for (i = 0; i < PROTOTYPES; i++) {
        char *prototype = all + (size_t)i * PAGE, *function = prototype + 2048, *text = prototype + 3072;
        prototype[9] = 7;
        put(prototype, 12, 4, 4);                         /* sizebc */
        put(prototype, 32, (uint64_t)prototype + 1024, 8); /* k */
        put(prototype, 56, HUGE_PROTOTYPE, 4);            /* sizept */
        put(prototype, 64, (uint64_t)(i % 2 ? name : text), 8);
        put(prototype, 72, i, 4);                         /* firstline */
        text[9] = 4;
        put(text, 20, 65536, 4);
        text[24] = '@';
        memset(text + 25, 'a' + i % 26, 900);
        function[9] = 8;
        put(function, 32, (uint64_t)prototype + 104, 8);
    }
    for (first = 0;; first += FRAMES) {
        for (i = 0; i < FRAMES; i++) {
            words[2 + 2 * i] = FUNCTION(all + (size_t)((first + i) % PROTOTYPES) * PAGE + 2048);
            words[3 + 2 * i] = 16 | LINK_PCALL;
        }
        thread->stack = (uint64_t)words;
        thread->base = thread->top = thread->maxstack = (uint64_t)(words + 2 + 2 * FRAMES);
        burn();
    }
}

/* The VM's current thread is none, so that no rule says that it is a VM. */
static void vm(struct thread *thread)
{
    uint64_t *current = (uint64_t *)(thread->global + 368);
    *current = 0x123456789000;
    for (;;)
        burn();
}

void lie(uint64_t address, const char *kind)
{
    struct thread *thread = (struct thread *)address;
    if (!strcmp(kind, "links"))
        links(thread);
    if (!strcmp(kind, "pointers"))
        pointers(thread);
    if (!strcmp(kind, "cframes"))
        cframes(thread);
    if (!strcmp(kind, "stack"))
        stack(thread);
    if (!strcmp(kind, "prototypes"))
        prototypes(thread);
    if (!strcmp(kind, "vm"))
        vm(thread);
    abort();
}
