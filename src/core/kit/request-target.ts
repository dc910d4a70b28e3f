/** The path of a request's target, whatever that is: `new URL` throws for some that HTTP allows (`//`). */
export function pathOf(target: string | undefined): string {
  return (target ?? '/').split('?', 1)[0] ?? '/'
}

/** What follows the path of a request's target. */
export function queryOf(target: string | undefined): URLSearchParams {
  const at = target?.indexOf('?') ?? -1
  return new URLSearchParams(at < 0 ? '' : target?.slice(at + 1))
}

/** Whether a request names its host twice, which two readers could read in two ways (RFC 9112 §3.2: answer with 400). */
export function hasTwoHosts(rawHeaders: readonly string[]): boolean {
  return rawHeaders.filter((text, i) => i % 2 === 0 && text.toLowerCase() === 'host').length > 1
}
