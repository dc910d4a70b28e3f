/**
 * Many connections at once, through two agents: none is dropped, all are answered.
 *
 *     node test/soak/pressure.ts [connections, 10000 by default]
 *
 * Runs in a network namespace of its own where it may, so that the kernel's counters of full accept queues are only ours.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { pressure } from './press.ts'

const [count = '10000', inside] = process.argv.slice(2)

if (inside === undefined && spawnSync('unshare', ['-Urn', 'true']).status === 0) {
  const argv = ['-Urn', 'sh', '-c', 'ip link set lo up && exec "$0" "$@"', process.execPath]
  const ran = spawnSync('unshare', [...argv, import.meta.filename, count, 'inside'], { stdio: 'inherit' })
  process.exit(ran.status ?? 1)
}

const before = overflows()
const told = await pressure(Number(count))
console.log(JSON.stringify({ ...told, overflows: overflows() - before }, undefined, 2))
process.exit(told.answered === told.connections ? 0 : 1)

/** Connections that the kernel did not queue: TcpExt ListenOverflows and ListenDrops. */
function overflows(): number {
  const [names = '', values = ''] = readFileSync('/proc/net/netstat', 'latin1')
    .split('\n')
    .filter((line) => line.startsWith('TcpExt:'))
  const at = names.split(' ')
  const value = (name: string) => Number(values.split(' ')[at.indexOf(name)])
  return value('ListenOverflows') + value('ListenDrops')
}
