import { type Testbed, until } from '../testbed.ts'
import { reaches } from './nebula.ts'

/** WireGuard in user space (Go), between the two namespaces; the MTU of 1420 is wg-quick's for a link of 1500. */
const ADDRESS = { a: '10.97.0.1', b: '10.97.0.2' } as const

/** The address of side b inside WireGuard's network; `open`: a port that takes connections there. */
export async function startWireguard(testbed: Testbed, open: number): Promise<string> {
  const port = await testbed.port()
  const keys = { a: await keyPair(testbed, 'a'), b: await keyPair(testbed, 'b') }
  for (const side of ['a', 'b'] as const) {
    const other = side === 'a' ? 'b' : 'a'
    const name = `hg${side}${process.pid}` // its control socket is one folder for all namespaces
    const program = testbed.start(side, ['wireguard-go', '-f', name], { env: { WG_PROCESS_FOREGROUND: '1' } })
    const peer = ['peer', keys[other].open, 'allowed-ips', `${ADDRESS[other]}/32`]
    const set = ['wg', 'set', name, 'listen-port', String(port), 'private-key', keys[side].file, ...peer]
    await until(() => {
      if (program.exit !== undefined) throw new Error(`wireguard-go: ${program.exit}: ${program.lines.join(' | ')}`)
      return testbed.text(side, [...set, 'endpoint', `${testbed.address(other)}:${port}`]).then(
        () => true,
        () => false,
      )
    }, 'wireguard-go takes its configuration')
    const up = `ip addr add ${ADDRESS[side]}/24 dev ${name}; ip link set ${name} mtu 1420 up`
    await testbed.text(side, ['sh', '-ec', up])
  }
  await until(() => reaches(testbed, ADDRESS.b, open), 'WireGuard carries packets')
  return ADDRESS.b
}

async function keyPair(testbed: Testbed, side: string): Promise<{ file: string; open: string }> {
  const file = testbed.path(`wireguard-${side}.key`)
  const open = await testbed.text('a', ['sh', '-ec', 'umask 077; wg genkey > "$0"; wg pubkey < "$0"', file])
  return { file, open: open.trim() }
}
