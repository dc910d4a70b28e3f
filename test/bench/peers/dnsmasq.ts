import { writeFileSync } from 'node:fs'
import type { Testbed } from '../testbed.ts'

/** dnsmasq as a name server of its own: the names are address records in its configuration, nothing is asked upstream. */
export async function startDnsmasq(testbed: Testbed, names: readonly string[]): Promise<number> {
  const port = await testbed.port()
  const file = testbed.path('dnsmasq.conf')
  const records = names.map((name, i) => `host-record=${name},127.31.${i >> 8}.${i & 255}\n`)
  const settings = ['keep-in-foreground', 'no-resolv', 'no-hosts', 'bind-interfaces', 'listen-address=127.0.0.1']
  writeFileSync(
    file,
    [...settings, `port=${port}`, `pid-file=${testbed.path('dnsmasq.pid')}`, ''].join('\n') + records.join(''),
  )
  const program = testbed.start('a', ['dnsmasq', '--user=', '--group=', `--conf-file=${file}`])
  await testbed.listening(program, port, 'udp')
  return port
}
