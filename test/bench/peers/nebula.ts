import { writeFileSync } from 'node:fs'
import { type Testbed, type Side, until } from '../testbed.ts'

/**
 * Nebula, between the two namespaces: AES-256-GCM in UDP, its default MTU of 1300, both ends known
 * to each other (no lighthouse between), everything allowed. Its packets enter and leave by a TUN device.
 */
const ADDRESS = { a: '10.98.0.1', b: '10.98.0.2' } as const

/** The address of side b inside Nebula's network; `open`: a port that takes connections there. */
export async function startNebula(testbed: Testbed, open: number): Promise<string> {
  const port = await testbed.port()
  const at = (name: string) => testbed.path(`nebula-${name}`)
  await testbed.text('a', ['nebula-cert', 'ca', '-name', 'bench', '-out-crt', at('ca.crt'), '-out-key', at('ca.key')])
  for (const side of ['a', 'b'] as const) {
    const signed = ['-ca-crt', at('ca.crt'), '-ca-key', at('ca.key'), '-name', side, '-ip', `${ADDRESS[side]}/24`]
    await testbed.text('a', [
      'nebula-cert',
      'sign',
      ...signed,
      '-out-crt',
      at(`${side}.crt`),
      '-out-key',
      at(`${side}.key`),
    ])
    writeFileSync(at(`${side}.json`), JSON.stringify(config(testbed, side, port, at)))
    testbed.start(side, ['nebula', '-config', at(`${side}.json`)])
  }
  await until(() => reaches(testbed, ADDRESS.b, open), 'Nebula carries packets')
  return ADDRESS.b
}

/** Nebula reads YAML, of which JSON is a part. */
function config(testbed: Testbed, side: Side, port: number, at: (name: string) => string): object {
  const other = side === 'a' ? 'b' : 'a'
  const any = [{ port: 'any', proto: 'any', host: 'any' }]
  return {
    pki: { ca: at('ca.crt'), cert: at(`${side}.crt`), key: at(`${side}.key`) },
    static_host_map: { [ADDRESS[other]]: [`${testbed.address(other)}:${port}`] },
    lighthouse: { am_lighthouse: false, hosts: [] },
    listen: { host: testbed.address(side), port },
    cipher: 'aes',
    tun: { dev: 'nebula', mtu: 1300 },
    logging: { level: 'error', format: 'text' },
    firewall: { outbound: any, inbound: any },
  }
}

/** Whether a connection from side a succeeds within a second. */
export async function reaches(testbed: Testbed, address: string, port: number): Promise<boolean> {
  return testbed.text('a', ['timeout', '1', 'bash', '-c', `exec 3<>/dev/tcp/${address}/${port}`]).then(
    () => true,
    () => false,
  )
}
