/* A program in C that opens a plug-in which is in C++: calls.cc. */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    void *plug_in = dlopen(argv[1], RTLD_NOW);
    if (!plug_in) {
        fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    int (*run)(int, char **) = (int (*)(int, char **))dlsym(plug_in, "run");
    return run(argc - 1, argv + 1) || dlclose(plug_in);
}
