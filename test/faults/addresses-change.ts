import { spawnSync } from 'node:child_process'
import { EVERY_LISTENER } from './every-listener.ts'

/*
 * Run by sockets.test.ts in a network namespace of its own: opens every listener at an address, takes the address away and gives
 * it back, then takes `lo` down and up. Prints whether each listener served, as JSON.
 */

const HOST = '10.77.0.1'
const ip = (...argv: string[]) => {
  const { status, stderr } = spawnSync('ip', argv, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`ip ${argv.join(' ')}: ${stderr}`)
}
const served = (ask: () => Promise<unknown>) =>
  ask().then(
    () => true,
    () => false,
  )

ip('link', 'set', 'lo', 'up')
const atStart: Record<string, unknown> = {}
for (const { name, open } of EVERY_LISTENER) {
  const failure = await open({ host: HOST, port: 0 }).catch((error: unknown) => error)
  const { code, cause } = failure as { code?: string; cause?: { code?: string; cause?: { code?: string } } }
  atStart[name] = [code, cause?.code ?? cause?.cause?.code]
}
ip('addr', 'add', `${HOST}/32`, 'dev', 'lo')
const open = await Promise.all(
  EVERY_LISTENER.map(async ({ name, open }) => ({ name, ...(await open({ host: HOST, port: 0 })) })),
)
const look = async () =>
  Object.fromEntries(await Promise.all(open.map(async ({ name, ask }) => [name, await served(ask)] as const)))
const before = await look()
ip('addr', 'del', `${HOST}/32`, 'dev', 'lo')
const without = await look()
ip('addr', 'add', `${HOST}/32`, 'dev', 'lo')
const again = await look()
ip('link', 'set', 'lo', 'down')
const down = await look()
ip('link', 'set', 'lo', 'up')
ip('addr', 'replace', `${HOST}/32`, 'dev', 'lo')
const up = await look()
console.log(JSON.stringify({ atStart, before, without, again, down, up }))
process.exit(0)
