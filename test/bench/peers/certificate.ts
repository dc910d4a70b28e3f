import { existsSync } from 'node:fs'
import type { Testbed } from '../testbed.ts'

/** One self-signed certificate (ECDSA P-256) that both sides show and trust; `both` is it and its key in one file. Made once. */
export async function certificate(testbed: Testbed): Promise<{ both: string; authority: string }> {
  const [key, authority, both] = [testbed.path('key.pem'), testbed.path('cert.pem'), testbed.path('both.pem')]
  if (existsSync(both)) return { both, authority }
  const subject = ['-subj', '/CN=bench', '-days', '2', '-keyout', key, '-out', authority]
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  await testbed.text('a', ['openssl', 'req', '-x509', ...curve, ...subject])
  await testbed.text('a', ['sh', '-c', 'cat "$1" "$2" > "$0"', both, authority, key])
  return { both, authority }
}
