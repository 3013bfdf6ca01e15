/** Takes a handler away again. Calling it twice does nothing. */
export type Off = () => void;
/** Named events with typed arguments. Handlers that throw harm neither the others nor the sender. */
export declare class Events<Named extends object> {
    #private;
    on<Name extends keyof Named & string>(name: Name, handler: (event: Named[Name]) => void): Off;
    /** Whether anybody listens. */
    has(name: keyof Named): boolean;
    emit<Name extends keyof Named & string>(name: Name, event: Named[Name]): void;
}
