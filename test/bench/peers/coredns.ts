import { writeFileSync } from 'node:fs'
import type { Testbed } from '../testbed.ts'

/** CoreDNS as a name server of its own: the names are in a hosts file, which it answers from memory; no log, nothing is asked upstream. */
export async function startCoredns(testbed: Testbed, names: readonly string[]): Promise<number> {
  const port = await testbed.port()
  const [hosts, corefile] = [testbed.path('coredns.hosts'), testbed.path('Corefile')]
  writeFileSync(hosts, names.map((name, i) => `127.31.${i >> 8}.${i & 255} ${name}\n`).join(''))
  writeFileSync(corefile, `.:${port} {\n  bind 127.0.0.1\n  hosts ${hosts} {\n    no_reverse\n    reload 0\n  }\n}\n`)
  const program = testbed.start('a', ['coredns', '-quiet', '-conf', corefile])
  await testbed.listening(program, port, 'udp')
  return port
}
