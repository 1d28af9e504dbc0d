/* python3.dll: nothing of its own; python3.def sends each name of the stable ABI on to the versioned library. */
int DllMainCRTStartup(void *instance, unsigned reason, void *reserved)
{
    (void)instance, (void)reason, (void)reserved;
    return 1;
}
