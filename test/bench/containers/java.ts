import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, realpathSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { which } from '../../../src/lab/this-machine.ts'

const SOURCE = `public class Lookup {
  public static void main(String[] argv) throws Exception {
    for (java.net.InetAddress each : java.net.InetAddress.getAllByName(argv[0])) System.out.println(each.getHostAddress());
  }
}
`

export interface JavaLookup {
  java: string
  /** For an image: the runtime and the compiled class. */
  files: string[]
  argv: string[]
}

/** A class that looks up a name, and what it needs; or why there is none. */
export function javaLookup(folder: string): JavaLookup | string {
  const [java, javac] = [which('java'), which('javac')].map((path) => path && realpathSync(path))
  if (java === undefined || javac === undefined) return 'needs java and javac (apt-get install default-jdk-headless)'
  writeFileSync(join(folder, 'Lookup.java'), SOURCE)
  const compiled = join(folder, 'Lookup.class')
  if (!existsSync(compiled)) {
    const { status, stderr } = spawnSync(javac, ['--release', '11', 'Lookup.java'], { cwd: folder, encoding: 'utf8' })
    if (status !== 0) return stderr.trim()
  }
  const home = dirname(dirname(java))
  // a link to the sources, which need not be there, is among its files
  const lib = readdirSync(join(home, 'lib'))
    .filter((name) => name !== 'src.zip')
    .map((name) => join(home, 'lib', name))
  return { java, files: [...lib, join(home, 'conf'), compiled], argv: [java, '-Xmx64m', '-cp', folder, 'Lookup'] }
}
