/* The containers of containers.test.ts, by Podman: the same tests, in a process and a network namespace of their own. */
process.env['HEDGEROW_TEST_ENGINE'] = 'podman'
await import('./containers.test.ts')
