import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { run } from '../../src/lab/program.ts'
import { sla } from '../walks/mesh.ts'
import { LAUNCHER } from '../support/launcher.ts'

/*
 * As process 1 of a container: orphans are reaped, `hedgerow restart` does not end the container, and SIGTERM does.
 */

t.setTimeout(280_000)
const skip = process.getuid?.() === 0 ? false : 'optional: needs root, for a process namespace'

/** Prints one word for each fact; the program under test is process 1, so this runs beside it. */
const SCRIPT = `
mount -t proc proc /proc
ip link set lo up
hedgerow() { "$NODE" "$LAUNCHER" --state "$DIR/s" "$@"; }
zombies() { grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l; }
until_up() { for i in $(seq 200); do hedgerow status > /dev/null 2>&1 && return; sleep 0.2; done; }
(
  until_up
  hedgerow apply -f "$DIR/shop.json" > /dev/null
  sleep 4
  echo "zombies=$(zombies)"
  hedgerow restart > /dev/null && echo restarted
  sleep 1
  hedgerow status > /dev/null && echo serves
  kill -TERM 1
) &
exec "$NODE" "$LAUNCHER" --state "$DIR/s" up --name n0 --upstream 127.0.0.1:9 --log-level silent > /dev/null 2>&1
`

t.test('process 1 of a container', { skip }, async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'hr-init-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const orphans = {
    microservice_name: 'orphans',
    microservice_namespace: 'prod',
    virtualization: 'process',
    cmd: ['sh', '-c', 'while :; do (sleep 0.1 &); sleep 0.1; done'],
    port: '',
    code: '',
  }
  writeFileSync(join(dir, 'shop.json'), JSON.stringify(sla([orphans])))
  const env = { NODE: process.execPath, LAUNCHER, DIR: dir, HEDGEROW_STATE: undefined }
  const argv = ['unshare', '--net', '--mount', '--pid', '--fork', '--kill-child', 'bash', '-c', SCRIPT]
  const { code, stdout } = await run(argv, { env, timeoutMs: 110_000 })
  const zombies = Number(/zombies=(\d+)/.exec(stdout)?.[1])
  t.ok(zombies <= 2, `${zombies} zombies after 40 orphans`)
  t.match(stdout, 'restarted')
  t.match(stdout, 'serves', 'the container goes on with the new process')
  t.equal(code, 0, 'SIGTERM to process 1 ends it well')
})
