/* A program that embeds LuaJIT, for the tests.
 *
 *   host SCRIPT                 runs a script; `host.call` and the like take a function and its arguments
 *   host --joff SCRIPT          the same without the JIT compiler
 *   host --prelude FILE SCRIPT  runs another script before it, in the same VM
 *   host --vms N SCRIPT         makes N VMs, runs the script in each with its number, then calls `step` in each in turn
 *   host --threads N SCRIPT     the same with a thread for each VM
 *   host --threads M --vms N SCRIPT  the same with N VMs that M threads share
 *   host --renew N ...          closes each VM after N calls of `step`, and makes another
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lauxlib.h"
#include "lua.h"
#include "luajit.h"
#include "lualib.h"

/* Keeps a function whole, under its name. What is done to `finished` after a call keeps the call from being a jump. */
#define FRAME __attribute__((noipa))
static volatile int finished;

static void die(lua_State *L, const char *what)
{
    fprintf(stderr, "%s: %s\n", what, L ? lua_tostring(L, -1) : "");
    exit(1);
}

static FRAME int host_call(lua_State *L)
{
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    finished++;
    return lua_gettop(L);
}

static FRAME int host_pcall(lua_State *L)
{
    if (lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0) != 0)
        return lua_error(L);
    finished++;
    return lua_gettop(L);
}

struct call {
    int function, argument, result;
};

/* Called by lua_cpcall with nothing but a pointer: the function and its argument are in the registry. */
static FRAME int in_cpcall(lua_State *L)
{
    struct call *call = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, call->function);
    lua_rawgeti(L, LUA_REGISTRYINDEX, call->argument);
    lua_call(L, 1, 1);
    call->result = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

static FRAME int host_cpcall(lua_State *L)
{
    struct call call;
    call.argument = luaL_ref(L, LUA_REGISTRYINDEX);
    call.function = luaL_ref(L, LUA_REGISTRYINDEX);
    if (lua_cpcall(L, in_cpcall, &call) != 0)
        return lua_error(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, call.result);
    luaL_unref(L, LUA_REGISTRYINDEX, call.result);
    luaL_unref(L, LUA_REGISTRYINDEX, call.argument);
    luaL_unref(L, LUA_REGISTRYINDEX, call.function);
    return 1;
}

/* Runs the function as a coroutine to its end, and returns its last result. */
static FRAME int host_resume(lua_State *L)
{
    int arguments = lua_gettop(L) - 1, status;
    lua_State *co = lua_newthread(L);
    lua_insert(L, 1);
    lua_xmove(L, co, arguments + 1);
    while ((status = lua_resume(co, arguments)) == LUA_YIELD) {
        lua_settop(co, 0);
        arguments = 0;
    }
    if (status != 0)
        die(co, "resume");
    lua_xmove(co, L, 1);
    return 1;
}

static const luaL_Reg functions[] = {
    {"call", host_call}, {"pcall", host_pcall}, {"cpcall", host_cpcall}, {"resume", host_resume}, {NULL, NULL},
};

static lua_State *new_vm(int jit, const char *prelude)
{
    lua_State *L = luaL_newstate();
    if (!L)
        die(NULL, "no memory");
    luaL_openlibs(L);
    luaL_register(L, "host", functions);
    lua_settop(L, 0);
    if (!jit)
        luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
    if (prelude && luaL_dofile(L, prelude) != 0)
        die(L, "prelude");
    return L;
}

static FRAME int run_script(lua_State *L, const char *script, int number)
{
    if (luaL_loadfile(L, script) != 0)
        die(L, "load");
    lua_pushinteger(L, number);
    if (lua_pcall(L, 1, 0, 0) != 0)
        die(L, "run");
    finished++;
    return 0;
}

static FRAME int run_step(lua_State *L)
{
    lua_getglobal(L, "step");
    if (lua_pcall(L, 0, 0, 0) != 0)
        die(L, "step");
    finished++;
    return 0;
}

/* What makes a VM, and the VMs that threads share. */
static int jit = 1, vms, threads, renew;
static const char *prelude, *script;
static lua_State **all;

static FRAME void start_vm(int number)
{
    all[number] = new_vm(jit, prelude);
    run_script(all[number], script, number);
    finished++;
}

/* Calls `step` in each of the VMs from `first` on that are so far apart. No frame of its own: its caller stands for it. */
static inline __attribute__((always_inline)) void run_vms(int first, int apart)
{
    int i, round;
    for (round = 1;; round++)
        for (i = first; i < vms; i += apart) {
            run_step(all[i]);
            if (renew && round % renew == 0) {
                lua_close(all[i]);
                start_vm(i);
            }
        }
}

static FRAME void *run_thread(void *all_vms)
{
    run_vms((lua_State **)all_vms - all, threads);
    return NULL;
}

int main(int argc, char **argv)
{
    int at = 1, i;
    for (; at < argc && argv[at][0] == '-'; at++) {
        if (!strcmp(argv[at], "--joff"))
            jit = 0;
        else if (!strcmp(argv[at], "--prelude") && at + 1 < argc)
            prelude = argv[++at];
        else if (!strcmp(argv[at], "--vms") && at + 1 < argc)
            vms = atoi(argv[++at]);
        else if (!strcmp(argv[at], "--threads") && at + 1 < argc)
            threads = atoi(argv[++at]);
        else if (!strcmp(argv[at], "--renew") && at + 1 < argc)
            renew = atoi(argv[++at]);
        else
            die(NULL, argv[at]);
    }
    if (at + 1 != argc)
        die(NULL, "which script?");
    script = argv[at];
    if (vms == 0)
        vms = threads;
    if (vms == 0) {
        run_script(new_vm(jit, prelude), script, 0);
        finished++;
        return 0;
    }

    all = calloc(vms, sizeof *all);
    for (i = 0; i < vms; i++)
        start_vm(i);
    puts("ready");
    fflush(stdout);
    if (threads) {
        pthread_t thread;
        for (i = 0; i < threads; i++)
            pthread_create(&thread, NULL, run_thread, &all[i]);
        pthread_join(thread, NULL);
    }
    run_vms(0, 1);
}
