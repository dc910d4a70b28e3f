/** esbuild puts styles that are imported into a file of their own. */
declare module '*.css'
